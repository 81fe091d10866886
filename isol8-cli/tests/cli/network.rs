//! Packages and the filtered network: what the installer says, and the log.

use expect_test::expect;
use isol8_proto::v1::{ErrorDetail, NetworkAction, NetworkMode, NetworkRequest, Phase};
use tonic::Code;

use crate::{
    cli::isol8,
    fake::{Fake, Run},
};

const INSTALL: [&str; 5] = ["run", "-e", "1", "--install", "rich"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    INSTALL.into_iter().chain(more.iter().copied()).collect()
}

/// Installs, and then the program writes on both streams.
fn installing() -> Fake {
    Fake::new(|run: Run| async move {
        run.note(format!("{:?} {:?}", run.start.network(), run.start.install));
        run.accept().await;
        run.phase(Phase::Install).await;
        run.stderr("Collecting rich\n").await;
        run.stderr("100%").await;
        run.phase(Phase::Code).await;
        run.stderr("careful ").await;
        run.stdout("out\n").await;
        run.code(0).await;
    })
}

#[test]
fn what_the_installer_says_comes_on_stderr_and_ends_before_the_program() {
    let fake = installing();
    let done = isol8(&fake, &INSTALL);
    expect![[r#"
        0
        Collecting rich
        100%
        careful "#]]
    .assert_eq(&done.told());
    assert_eq!(done.text(), "out\n");
    let mode = NetworkMode::Filtered;
    assert_eq!(fake.seen(), [format!("{mode:?} [\"rich\"]")]);
}

#[test]
fn in_json_there_is_no_place_for_the_installer() {
    let done = isol8(&installing(), &with(&["--json"]));
    assert_eq!(done.told(), "0\n");
    let object: serde_json::Value = serde_json::from_str(done.text()).expect("JSON alone");
    assert_eq!(object["stderr"], "careful ");
    assert_eq!(object["stdout"], "out\n");
    assert!(object.get("networkLogs").is_none());
}

fn failing() -> Fake {
    Fake::new(|run: Run| async move {
        run.accept().await;
        run.phase(Phase::Install).await;
        run.stderr("Collecting rich\nERROR: no such version\n")
            .await;
        let detail = ErrorDetail {
            kind: "install_failed".to_owned(),
            message: "pip could not install `rich`".to_owned(),
            hint: "look for its versions".to_owned(),
            ..ErrorDetail::default()
        };
        run.fail(Code::FailedPrecondition, &detail).await;
    })
}

#[test]
fn an_install_that_fails_is_a_failure_of_ours() {
    let done = isol8(&failing(), &INSTALL);
    expect![[r#"
        125
        Collecting rich
        ERROR: no such version
        error: pip could not install `rich`
        hint: look for its versions
    "#]]
    .assert_eq(&done.told());
    assert_eq!(done.text(), "");
}

#[test]
fn with_json_the_failure_carries_what_the_installer_said_last() {
    let done = isol8(&failing(), &with(&["--json"]));
    expect![[r#"
        125
        error: pip could not install `rich`
        cause: Collecting rich
          ERROR: no such version
        hint: look for its versions
    "#]]
    .assert_eq(&done.told());
    assert_eq!(done.text(), "");
}

fn request(host: &str, action: NetworkAction) -> NetworkRequest {
    NetworkRequest {
        timestamp_ms: 1_700_000_000_000,
        method: "CONNECT".to_owned(),
        host: host.to_owned(),
        port: 443,
        action: action.into(),
        ..NetworkRequest::default()
    }
}

/// Two pieces of the log, after output that does not end its line.
fn logging() -> Fake {
    Fake::new(|run: Run| async move {
        run.note(format!("log {}", run.start.log_network));
        run.accept().await;
        run.phase(Phase::Code).await;
        run.stderr("no end").await;
        run.network(vec![request("a.example", NetworkAction::Allow)])
            .await;
        run.network(vec![request("b.example", NetworkAction::Block)])
            .await;
        run.code(7).await;
    })
}

const LOGGED: [&str; 5] = ["run", "-e", "1", "--net=filtered", "--log-network"];

#[test]
fn the_log_comes_last_in_lines_of_its_own() {
    let fake = logging();
    let done = isol8(&fake, &LOGGED);
    expect![[r#"
        7
        no end
        {"timestamp":"2023-11-14T22:13:20.000Z","method":"CONNECT","host":"a.example","port":443,"path":null,"action":"ALLOW","reason":"","bytesIn":0,"bytesOut":0,"durationMs":0}
        {"timestamp":"2023-11-14T22:13:20.000Z","method":"CONNECT","host":"b.example","port":443,"path":null,"action":"BLOCK","reason":"","bytesIn":0,"bytesOut":0,"durationMs":0}
    "#]]
    .assert_eq(&done.told());
    assert_eq!(fake.seen(), ["log true"]);
    let quiet = isol8(&fake, &LOGGED[..4]);
    assert_eq!(quiet.told(), "7\nno end", "nobody asked for it");
}

#[test]
fn in_json_the_log_is_a_part_of_the_object() {
    let fake = logging();
    let args: Vec<&str> = LOGGED.into_iter().chain(["--json"]).collect();
    let done = isol8(&fake, &args);
    assert_eq!(done.told(), "7\n");
    let object: serde_json::Value = serde_json::from_str(done.text()).expect("JSON alone");
    let log = object["networkLogs"].as_array().expect("a list");
    let of = |index: usize| (&log[index]["host"], &log[index]["action"]);
    assert_eq!(of(0), (&"a.example".into(), &"ALLOW".into()));
    assert_eq!(of(1), (&"b.example".into(), &"BLOCK".into()));
    assert_eq!(log.len(), 2);
}

#[test]
fn a_run_that_fails_has_told_its_log() {
    let fake = Fake::new(|run: Run| async move {
        run.network(vec![request("b.example", NetworkAction::Block)])
            .await;
        let detail = ErrorDetail {
            kind: "egress_unavailable".to_owned(),
            message: "the filter is gone".to_owned(),
            ..ErrorDetail::default()
        };
        run.fail(Code::Unavailable, &detail).await;
    });
    for more in [&[][..], &["--json"]] {
        let args: Vec<&str> = LOGGED.iter().chain(more).copied().collect();
        let done = isol8(&fake, &args);
        let lines: Vec<&str> = done.stderr.lines().collect();
        assert_eq!((done.code, done.text()), (125, ""));
        assert!(lines[0].contains("b.example"), "{lines:?}");
        assert_eq!(lines[1..], ["error: the filter is gone"]);
    }
}

#[test]
fn warnings_come_before_the_run_and_name_the_pattern() {
    let fake = Fake::new(|run: Run| run.simple(0));
    let done = isol8(
        &fake,
        &[
            "run",
            "-e",
            "1",
            "--net=filtered",
            "--deny",
            "api.example.com",
        ],
    );
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    assert!(done.stderr.starts_with("warning: "), "{}", done.stderr);
    assert!(done.stderr.contains("api.example.com"), "{}", done.stderr);
    let done = isol8(&fake, &["run", "-e", "1", "--net", "host"]);
    expect![[r#"
        0
        warning: with `--net host` the program reaches everything that this host reaches
    "#]]
    .assert_eq(&done.told());
    let done = isol8(&fake, &["run", "-e", "1", "--net", "host", "--json"]);
    assert_eq!(done.told(), "0\n");
}

#[test]
fn the_files_list_reaches_a_filtered_run_alone() {
    let fake = Fake::new(|run: Run| async move {
        run.note(format!(
            "{:?}",
            run.start.filter.clone().unwrap_or_default()
        ));
        run.simple(0).await;
    });
    let file = fake.path("isol8.config.json");
    let text = r#"{"network": {"whitelist": []}}"#;
    std::fs::write(&file, text).expect("room");
    for args in [&LOGGED[..4], &LOGGED[..3]] {
        assert_eq!(isol8(&fake, args).told(), "0\n");
    }
    expect![[r#"
        [
            "NetworkFilter { allow: Some(PatternList { patterns: [] }), deny: None }",
            "NetworkFilter { allow: None, deny: None }",
        ]
    "#]]
    .assert_debug_eq(&fake.seen());
}
