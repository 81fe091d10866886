//! What is installed once is there for the next run, and only what was asked
//! for.

use std::fs;

use isol8_e2e::harness::{
    call::Ran,
    internet::Internet,
    stage::Stage,
    wait::{seconds, wait_until},
};
use serde_json::Value;

use super::registry;

/// Files of packages that were fetched since the last call.
fn fetched(internet: &Internet) -> Vec<String> {
    let seen = internet.origin.take_seen();
    let files = seen
        .iter()
        .filter(|seen| seen.path().starts_with("/files/"));
    files.map(|seen| seen.path().to_owned()).collect()
}

fn cache(stage: &Stage) -> Value {
    stage.status()["installCache"].clone()
}

/// Everything below the folder of layers.
fn on_disk(stage: &Stage) -> Vec<String> {
    let entries = fs::read_dir(stage.folder().join("state/layers"))
        .into_iter()
        .flatten();
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().display().to_string())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn quiet(ran: &Ran) {
    assert_eq!(ran.err(), "", "nothing is installed: {ran:?}");
}

const TINY: &str = "VALUE = 42\n";

both_engines_online! {
    /// The second run fetches nothing, says nothing, and is as quick as one
    /// without packages; a new daemon finds what the old one kept.
    fn installed_once(stage: &Stage, internet: &Internet) {
        registry::wheel(stage, internet, "tiny", TINY);
        registry::wheel(stage, internet, "other", "VALUE = 7\n");
        let run = |packages: &[&str]| {
            let call = stage.python("import tiny; print(tiny.VALUE, tiny.__file__.startswith('/sandbox/.local/'))");
            packages.iter().fold(call, |call, package| call.args(["--install", *package])).go()
        };
        let first = run(&["tiny"]);
        assert_eq!(first.ok(), "42 True\n");
        first.says("tiny");
        assert_eq!(fetched(internet).len(), 1);
        let second = run(&["tiny"]);
        assert_eq!(second.ok(), "42 True\n");
        quiet(&second);
        second.within(seconds(3));
        drop(internet.origin.take_connections());
        for _ in 0..3 {
            quiet(&run(&["tiny"]));
        }
        assert_eq!(internet.origin.take_connections(), [], "nobody was asked anything");
        let seen = cache(stage);
        assert_eq!((&seen["misses"], &seen["hits"]), (&1.into(), &4.into()), "{seen}");
        assert!(seen["bytes"].as_u64() > Some(0), "{seen}");
        // Another order and a repeat are the same packages.
        assert_eq!(run(&["other", "tiny"]).ok(), "42 True\n");
        assert!(!fetched(internet).is_empty());
        quiet(&run(&["tiny", "other", "tiny"]));
        assert_eq!(fetched(internet), Vec::<String>::new());
        // A run that asks for none has none.
        stage.python("import tiny").go().ended(1).says("No module named");
        stage.stop_daemon();
        stage.start_daemon();
        quiet(&run(&["tiny"]));
        assert_eq!(fetched(internet), Vec::<String>::new());
    }

    /// Two that want the same build it once.
    fn built_once_for_all_who_wait(stage: &Stage, internet: &Internet) {
        registry::source(stage, internet, "slow", "import time\ndef build(): time.sleep(2); return 'VALUE = 1'\n");
        let code = "import slow; print(slow.VALUE)";
        let all: Vec<_> = (0..4).map(|_| stage.python(code).args(["--install", "slow", "--timeout", "100000"]).start()).collect();
        for live in all {
            let ran = live.finish();
            assert_eq!(ran.ok(), "1\n");
            // Each sees what the installer says.
            ran.says("slow");
        }
        assert_eq!(fetched(internet).len(), 1);
        assert_eq!(on_disk(stage).len(), 1, "{:?}", on_disk(stage));
        let seen = cache(stage);
        assert_eq!(seen["layers"], 1, "{seen}");
    }

    /// A layer belongs to nobody: what a program does to it fails, and what it
    /// puts over it is its own.
    fn a_layer_cannot_be_changed(stage: &Stage, internet: &Internet) {
        registry::wheel(stage, internet, "tiny", TINY);
        let code = "import tiny, os, errno, shutil\n\
            f = tiny.__file__; d = os.path.dirname(f)\n\
            def go(what, *args):\n \
             try: what(*args); return 'OK'\n \
             except OSError as e: return errno.errorcode[e.errno]\n\
            print(go(open, f, 'a'), go(os.unlink, f), go(os.rename, f, f + 'x'), go(os.mkdir, d + '/x'), go(os.chmod, f, 0o777),\n  \
             go(os.symlink, '/', d + '/y'), go(os.link, f, '/sandbox/l'), go(os.utime, f), go(shutil.rmtree, '/sandbox/.local'))\n\
            print(go(open, '/sandbox/mine', 'w'), os.stat(f).st_uid == os.getuid(), tiny.VALUE)";
        for _ in 0..2 {
            let ran = stage.python(code).args(["--install", "tiny"]).go();
            let out = ran.ok();
            let lines: Vec<&str> = out.lines().collect();
            assert!(lines[0].split(' ').all(|word| ["EROFS", "EACCES", "EPERM", "EXDEV", "EBUSY"].contains(&word)), "{ran:?}");
            assert!(lines[1].starts_with("OK ") && lines[1].ends_with(" 42"), "{ran:?}");
        }
    }

    /// Without the cache everything is fetched each time, into the run's own
    /// sandbox, and nothing is kept.
    fn without_the_cache(stage: &Stage, internet: &Internet) {
        registry::wheel(stage, internet, "tiny", TINY);
        for _ in 0..2 {
            let code = "import tiny; open(tiny.__file__, 'a').close(); print(tiny.VALUE)";
            let ran = stage.python(code).args(["--install", "tiny", "--no-install-cache"]).go();
            assert_eq!(ran.ok(), "42\n");
            ran.says("tiny");
            assert_eq!(fetched(internet).len(), 1);
        }
        assert_eq!(on_disk(stage), Vec::<String>::new());
        assert_eq!(cache(stage)["layers"].as_u64().unwrap_or_default(), 0);
    }

    /// What fails leaves nothing, says why, and does not stand in the way of
    /// the next try.
    fn a_failure_leaves_nothing(stage: &Stage, internet: &Internet) {
        registry::source(stage, internet, "broken", "def build():\n print('the last words of a build', flush=True)\n raise SystemExit(3)\n");
        for more in [&[][..], &["--no-install-cache"]] {
            let ran = stage.python("print('ran')").args(["--install", "broken"]).args(more).go();
            ran.ended(125).says("error: ").says("broken").says("the last words of a build").says("hint: ");
            assert_eq!(ran.out(), "");
        }
        let ran = stage.python("print('ran')").args(["--install", "no-such-package-at-all"]).go();
        ran.ended(125).says("no-such-package-at-all").says("hint: ");
        let ran = stage.python("print('ran')").args(["--install", "broken", "--json"]).go();
        ran.ended(125);
        assert_eq!(on_disk(stage), Vec::<String>::new());
        registry::wheel(stage, internet, "broken", TINY);
        assert_eq!(stage.python("import broken; print(broken.VALUE)").args(["--install", "broken"]).go().ok(), "42\n");
        assert_eq!(on_disk(stage).len(), 1);
    }

    /// The network that was asked for is the installer's; what is there already
    /// needs none.
    fn the_network_is_never_overridden(stage: &Stage, internet: &Internet) {
        registry::wheel(stage, internet, "tiny", TINY);
        let code = "import tiny, socket\n\
            try: socket.create_connection(('127.0.0.1', 8118)); print('door')\n\
            except OSError: print('wall')";
        let ran = stage.python(code).args(["--install", "tiny", "--net", "none"]).go();
        ran.ended(125).says("hint: ").says("--net");
        assert_eq!(internet.origin.take_seen().len(), 0);
        assert_eq!(stage.python(code).args(["--install", "tiny"]).go().ok(), "door\n");
        let ran = stage.python(code).args(["--install", "tiny", "--net=none"]).go();
        assert_eq!(ran.ok(), "wall\n");
        quiet(&ran);
        if stage.engine() == Engine::Native {
            // The host's network: nothing between the installer and the
            // registry. A container's host is outside of this internet.
            registry::wheel(stage, internet, "straight", TINY);
            let ran = stage.python("import straight; print(straight.VALUE)").args(["--install", "straight", "--net", "host"]).go();
            assert_eq!(ran.ok(), "42\n");
        }
    }

    /// A crash in the middle of a build: nothing half made is ever used.
    fn a_crash_leaves_nothing_half_made(stage: &Stage, internet: &Internet) {
        registry::source(stage, internet, "slow", "import time\ndef build(): time.sleep(3); return 'VALUE = 1'\n");
        let code = "import slow; print(slow.VALUE)";
        let live = stage.python(code).args(["--install", "slow"]).start();
        wait_until("the build", seconds(60), || fetched(internet).len() == 1);
        stage.crash_daemon();
        live.finish().ended(125);
        stage.start_daemon();
        assert!(on_disk(stage).iter().all(|name| !name.starts_with("tmp")), "{:?}", on_disk(stage));
        assert_eq!(stage.python(code).args(["--install", "slow"]).go().ok(), "1\n");
        assert_eq!(on_disk(stage).len(), 1);
    }
}
