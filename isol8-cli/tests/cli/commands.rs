//! The commands beside `run`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
};

use expect_test::expect;

use crate::{
    cli::{command, finish, isol8, spawn},
    fake::{Fake, Run},
};

fn idle() -> Fake {
    Fake::new(|run: Run| run.simple(0))
}

#[test]
fn status_is_a_table_or_json() {
    let fake = idle();
    let table = isol8(&fake, &["status"]);
    assert_eq!(table.told(), "0\n");
    expect![[r#"
        isol8d         0.1.0
        pid            4711
        up             1m 1s
        socket         /x.sock
        state
        configuration
        memory         0 MiB
        runs           0 of 0 in flight, 0 queued, 0 so far

        engine  health   chosen  sandboxes  detail
        native  healthy  auto    2          bubblewrap 0.8.0

        install cache  size             hits  misses
        3 layers       300 of 5120 MiB  12    4

        egress   sandboxes  restarts
        running  2          1
    "#]]
    .assert_eq(table.text());
    let json = isol8(&fake, &["status", "--json"]);
    let value: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    assert_eq!(value["pid"], 4711);
    assert_eq!(value["engines"][0]["engine"], "native");
    assert_eq!(value["runsInFlight"], 0);
    assert_eq!(value["installCache"]["limitBytes"], 5_u64 << 30);
    assert_eq!(value["installCache"]["hits"], 12);
    let egress = serde_json::json!({"running": true, "sandboxes": 2, "restarts": 1});
    assert_eq!(value["egress"], egress);
}

#[test]
fn status_names_a_daemon_of_another_version() {
    let fake = Fake::of_version("9.9.9", |run: Run| run.simple(0));
    let done = isol8(&fake, &["status"]);
    assert!(
        done.stderr
            .starts_with("warning: the daemon is version 9.9.9")
    );
}

#[test]
fn doctor_says_what_to_mend_and_fails() {
    let fake = idle();
    let done = isol8(&fake, &["doctor"]);
    assert_eq!(done.told(), "1\n");
    for line in [
        "ok    cgroups        what cgroups found",
        "warn  docker         what docker found",
        "FAIL  bwrap          what bwrap found",
        "                     fix: apt-get install bubblewrap",
    ] {
        assert!(
            done.text().lines().any(|found| found == line),
            "{}",
            done.text()
        );
    }
    let json = isol8(&fake, &["doctor", "--json"]);
    let value: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    let checks = value["checks"].as_array().expect("a list");
    assert!(
        checks
            .iter()
            .any(|check| check["name"] == "bwrap" && check["status"] == "failed")
    );
}

#[test]
fn setup_shows_progress_and_says_when_there_is_nothing_to_do() {
    let fake = idle();
    let idle = isol8(&fake, &["setup"]);
    assert_eq!(idle.told(), "0\nisol8:python is up to date\n");
    assert_eq!(idle.text(), "nothing to do: 1 image up to date\n");
    let forced = isol8(&fake, &["setup", "--force"]);
    assert_eq!(forced.told(), "0\nisol8:python built in 1.5 s\n");
    assert_eq!(forced.text(), "1 image built\n");
}

#[test]
fn build_prints_the_name_of_the_image() {
    let fake = idle();
    let argv = ["build", "--base=python", "--install=six,attrs>=1,<9"];
    let idle = isol8(&fake, &argv);
    assert_eq!(idle.text(), "isol8:python-custom-0123456789ab\n");
    assert_eq!(
        idle.told(),
        "0\nisol8:python-custom-0123456789ab is up to date\n\
         nothing to do: the image is there with the same inputs\n"
    );
    let more = ["--install=toolz", "--tag=mine", "--force"];
    let forced = isol8(&fake, &[&argv[..], &more].concat());
    assert_eq!(
        forced.told(),
        "0\nisol8:python-custom-0123456789ab built in 2.5 s\n"
    );
    let asked = fake.seen();
    assert!(
        asked.contains(&"build attrs>=1,<9 six ".to_owned()),
        "{asked:?}"
    );
    assert!(asked.contains(&"build attrs>=1,<9 six toolz mine".to_owned()));
}

#[test]
fn setup_puts_packages_into_the_file_in_force() {
    let fake = idle();
    let file = fake.path("isol8.config.json");
    fs::write(
        &file,
        "{\n  \"dependencies\": {\"python\": [\"six==1.0\"]}\n}\n",
    )
    .expect("room");
    let done = isol8(
        &fake,
        &["setup", "--python", "six,toolz", "--node=left-pad"],
    );
    assert!(done.told().contains("changed ") && done.told().contains("isol8.config.json"));
    let text = fs::read_to_string(&file).expect("it is there");
    assert_eq!(
        text,
        "{\n  \"dependencies\": {\"python\": [\"six\",\"toolz\"], \"node\": [\"left-pad\"]}\n}\n"
    );
    let asked = "setup python: six toolz; node: left-pad".to_owned();
    assert!(fake.seen().contains(&asked), "{:?}", fake.seen());
    let again = isol8(&fake, &["setup", "--python", "six"]);
    assert!(!again.told().contains("changed"), "{}", again.told());
}

#[test]
fn setup_makes_no_file_in_the_place_of_a_link_that_leads_nowhere() {
    let fake = idle();
    fs::create_dir_all(fake.path(".config/isol8")).expect("room");
    let file = fake.path(".config/isol8/config.json");
    std::os::unix::fs::symlink("mine.json", &file).expect("room");
    let done = isol8(&fake, &["setup", "--python", "six"]);
    assert_eq!(
        done.told(),
        format!(
            "125\nerror: `{}` is a link that leads nowhere\n\
             cause: there is no `mine.json`\n\
             hint: make that file, with `{{}}` in it, or remove the link\n",
            file.display()
        )
    );
    assert!(file.is_symlink());
    assert_eq!(fake.seen(), Vec::<String>::new());
}

#[test]
fn config_says_where_a_value_comes_from() {
    let fake = idle();
    let file = fake.path("isol8.config.json");
    fs::write(&file, r#"{"defaults": {"timeoutMs": 1234}}"#).expect("room");
    let done = isol8(&fake, &["config"]);
    let line = done
        .text()
        .lines()
        .find(|line| line.contains("defaults.timeoutMs"));
    let line = line.expect("every key is there");
    assert!(
        line.contains("1234") && line.contains("isol8.config.json"),
        "{line}"
    );
    let json = isol8(&fake, &["config", "--json"]);
    let value: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    assert_eq!(value["config"]["defaults"]["timeoutMs"], 1234);
    let schema = isol8(&fake, &["config", "--schema"]);
    let value: serde_json::Value = serde_json::from_str(schema.text()).expect("JSON");
    assert!(value["properties"]["maxConcurrent"].is_object());
}

#[test]
fn completions_are_for_each_shell() {
    let fake = idle();
    for (shell, word) in [
        ("bash", "complete"),
        ("zsh", "#compdef"),
        ("fish", "complete -c"),
    ] {
        let done = isol8(&fake, &["completions", shell]);
        assert_eq!(done.told(), "0\n");
        assert!(done.text().contains(word), "{shell}");
        for word in ["max-output", "adopt", "dry-run"] {
            assert!(done.text().contains(word), "{shell} {word}");
        }
    }
}

#[test]
fn daemon_start_finds_the_one_that_runs() {
    let fake = idle();
    let done = isol8(&fake, &["daemon", "start"]);
    assert_eq!(done.told(), "0\n");
    assert!(
        done.text().contains("was running: pid 4711"),
        "{}",
        done.text()
    );
}

#[test]
fn daemon_logs_follow_what_is_added() {
    let fake = idle();
    fs::create_dir(fake.path("state")).expect("room");
    let log = fake.path("state/isol8d.log");
    fs::write(&log, "one\n").expect("room");
    let whole = isol8(&fake, &["daemon", "logs"]);
    assert_eq!((whole.code, whole.text()), (0, "one\n"));
    let mut child = spawn(command(fake.folder.path(), &["daemon", "logs", "-f"]));
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "one");
    let file = fs::OpenOptions::new().append(true).open(&log);
    file.expect("it is there")
        .write_all(b"two\n")
        .expect("room");
    assert_eq!(next(), "two");
    child.kill().expect("it lives");
    finish(child);
}

#[test]
fn a_table_into_a_closed_pipe_ends_quietly() {
    let fake = idle();
    for args in [["config", "--schema"], ["completions", "bash"]] {
        let mut command = command(fake.folder.path(), &args);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        command.stdout(writer);
        assert_eq!(finish(spawn(command)).told(), "141\n", "{args:?}");
    }
}
