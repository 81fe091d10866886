use isol8_core::{
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{Network, SandboxKey},
};
use isol8_proto::init::{
    Command, Credit, Exec, Failed, FailureKind as Refused, Fetch, Fetched, File, Folder, Hello,
    KillAll, KillRun, Prepare, Remove, Root, Symlink, exited::How, from_init, to_init,
};

use super::*;
use crate::{Adoption, Engine, Sandbox};

fn spec(lasting: bool) -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        key: SandboxKey {
            engine: EngineKind::Native,
            runtime: Runtime::Python,
            image: None,
            network: Network::Filtered,
            writable: false,
            sandbox_size: ByteSize::mib(1),
            tmp_size: ByteSize::mib(1),
            layer: None,
        },
        limits: Limits {
            memory: ByteSize::mib(64),
            cpu: CpuMillis::ONE,
            pids: Pids::new(8).unwrap(),
        },
        lasting,
    }
}

fn engine() -> FakeEngine {
    FakeEngine::new(EngineKind::Native, DaemonId::random())
}

fn adoption(spec: &SandboxSpec, sandbox: &Sandbox) -> Adoption {
    Adoption {
        spec: spec.clone(),
        uid: 7,
        interpreter: sandbox.interpreter.clone(),
    }
}

async fn send(sandbox: &mut Sandbox, message: to_init::Message) {
    sandbox.link.writer.send(message).await.unwrap();
}

async fn next(sandbox: &mut Sandbox) -> from_init::Message {
    sandbox.link.reader.recv().await.unwrap()
}

async fn hello(sandbox: &mut Sandbox) -> Hello {
    match next(sandbox).await {
        from_init::Message::Hello(hello) => hello,
        other => panic!("{other:?} in place of Hello"),
    }
}

async fn until_the_end(sandbox: &mut Sandbox) -> (String, from_init::Message) {
    let mut text = String::new();
    loop {
        match next(sandbox).await {
            from_init::Message::Stdout(bytes) | from_init::Message::EntryData(bytes) => {
                text += &String::from_utf8_lossy(&bytes);
            }
            from_init::Message::Entry(entry) => {
                text += &format!("[{}]", String::from_utf8_lossy(&entry.path));
            }
            from_init::Message::Hello(_) | from_init::Message::Started(_) => {}
            end => return (text, end),
        }
    }
}

fn exec(argv: &str) -> to_init::Message {
    let argv = argv.split(' ').map(|word| word.to_owned().into());
    to_init::Message::Exec(Exec {
        command: Some(Command {
            argv: argv.collect(),
            ..Command::default()
        }),
        stdout_credit: 1000,
        ..Exec::default()
    })
}

fn file(path: &str, data: &str) -> File {
    File {
        path: path.to_owned().into(),
        data: data.to_owned().into(),
        last: true,
        ..File::default()
    }
}

async fn begin(sandbox: &mut Sandbox, program: &str) {
    send(sandbox, to_init::Message::File(file("main.py", program))).await;
    let (_, end) = until_the_end(sandbox).await;
    let written = matches!(end, from_init::Message::FileWritten(_));
    assert!(written, "{end:?}");
    send(sandbox, exec("python /sandbox/main.py")).await;
}

async fn run(sandbox: &mut Sandbox, program: &str) -> String {
    begin(sandbox, program).await;
    until_the_end(sandbox).await.0
}

async fn list(sandbox: &mut Sandbox, root: Root, path: &str, depth: u32) -> String {
    let fetch = Fetch {
        path: path.to_owned().into(),
        root: root.into(),
        names_only: true,
        max_entries: 100,
        depth,
        ..Fetch::default()
    };
    send(sandbox, to_init::Message::Fetch(fetch)).await;
    until_the_end(sandbox).await.0
}

async fn refused(sandbox: &mut Sandbox, message: to_init::Message) -> (Refused, i32) {
    send(sandbox, message).await;
    match until_the_end(sandbox).await.1 {
        from_init::Message::Failed(failed) => {
            assert!(failed.files, "{failed:?}");
            (failed.kind(), failed.errno)
        }
        other => panic!("{other:?} in place of a refusal"),
    }
}

#[tokio::test]
async fn errands_do_as_the_test_says_and_leave_a_trace() {
    let engine = engine();
    engine.errand("install", "out Collecting six\nplace six.py");
    engine.listening(true);
    let spec = spec(false);
    let mut sandbox = engine.create(&spec).await.unwrap();
    assert!(sandbox.listener.is_some() && engine.door_of(&spec.id).is_some());
    for line in ["pip install six", "pip check"] {
        send(&mut sandbox, exec(line)).await;
        let (said, end) = until_the_end(&mut sandbox).await;
        let expected = if line.contains("install") {
            "Collecting six\n"
        } else {
            ""
        };
        assert_eq!(said, expected);
        assert!(matches!(end, from_init::Message::Exited(_)), "{end:?}");
    }
    assert_eq!(engine.errands(), ["pip install six", "pip check"]);
    let fetch = Fetch {
        path: ".local".into(),
        max_bytes: 100,
        max_entries: 100,
        credit: 3,
        ..Fetch::default()
    };
    send(&mut sandbox, to_init::Message::Fetch(fetch)).await;
    let credit = Credit {
        data: 100,
        ..Credit::default()
    };
    send(&mut sandbox, to_init::Message::Credit(credit)).await;
    let (tree, end) = until_the_end(&mut sandbox).await;
    let expected = "[][record][record/errands]pip install six\npip check\n[six.py]six.py";
    assert_eq!(tree, expected);
    let bytes = 26 + 6;
    let fetched = Fetched { bytes, entries: 4 };
    assert_eq!(end, from_init::Message::Fetched(fetched));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_a_lasting_sandbox_outlives_its_stream() {
    let engine = engine();
    engine.listening(true);
    let spec = spec(true);
    let mut sandbox = engine.create(&spec).await.unwrap();
    let first = hello(&mut sandbox).await;
    assert!(first.lasting && first.token.is_empty() && !first.parked);
    let prepare = Prepare {
        parked: Some(Command::default()),
        token: "mine".into(),
    };
    send(&mut sandbox, to_init::Message::Prepare(prepare)).await;
    assert!(matches!(next(&mut sandbox).await, from_init::Message::Ready(ready) if ready.parked));
    run(&mut sandbox, "write data/x 42\nbackground server").await;
    begin(&mut sandbox, "hang").await;
    let (adoption, door) = (adoption(&spec, &sandbox), engine.door_of(&spec.id));
    drop(sandbox);

    // As a daemon of another process: what it has is the engine alone.
    let next_daemon = engine.clone();
    let found = next_daemon.list().await.unwrap();
    assert_eq!(found[0].id, spec.id);
    let mut sandbox = next_daemon.adopt(&adoption).await.unwrap();
    let again = hello(&mut sandbox).await;
    assert_eq!(
        (again.protocol, again.token),
        (first.protocol, "mine".into())
    );
    assert!(again.lasting && !again.parked, "it was used");
    assert_eq!(sandbox.uid, 7);
    assert!(sandbox.listener.is_some(), "its door comes again");
    assert_eq!(next_daemon.door_of(&spec.id), door);
    assert_eq!(run(&mut sandbox, "read data/x\nps").await, "42\nserver\n");
    let names = list(&mut sandbox, Root::Sandbox, "", 1).await;
    assert_eq!(names, "[][data][main.py]");
    engine.destroy(&spec.id).await.unwrap();
    let failure = engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_not_adopted_and_what_is_held_not_twice() {
    let engine = engine();
    for (lasting, program) in [(false, "exit 0"), (true, "perish"), (true, "oom-init")] {
        let spec = spec(lasting);
        let mut sandbox = engine.create(&spec).await.unwrap();
        begin(&mut sandbox, program).await;
        let adoption = adoption(&spec, &sandbox);
        // An ephemeral one lives on until nobody holds its stream.
        while lasting && sandbox.link.reader.recv().await.is_ok() {}
        drop(sandbox);
        let failure = engine.adopt(&adoption).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound, "{program}");
        assert!(
            engine.live_ids().contains(&spec.id),
            "until it is destroyed"
        );
    }
    let spec = spec(true);
    let mut sandbox = engine.create(&spec).await.unwrap();
    let adoption = adoption(&spec, &sandbox);
    let failure = engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EngineTimeout);
    assert_eq!(run(&mut sandbox, "out fine").await, "fine\n");
    // The stream alone is lost.
    begin(&mut sandbox, "die").await;
    while sandbox.link.reader.recv().await.is_ok() {}
    engine.plan(Step::Adopt, Fault::refuse());
    let failure = engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EngineRefused);
    let mut sandbox = engine.adopt(&adoption).await.unwrap();
    assert_eq!(run(&mut sandbox, "out fine").await, "fine\n");
    engine.kill_init(&spec.id);
    let failure = engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    let steps = engine.steps();
    let adopts = steps.iter().filter(|step| **step == Step::Adopt);
    assert_eq!(adopts.count(), 7);
}

#[tokio::test]
async fn a_run_is_killed_alone_or_with_all_the_others() {
    let engine = engine();
    let mut sandbox = engine.create(&spec(true)).await.unwrap();
    let kill_run = to_init::Message::KillRun(KillRun {});
    let kill_all = to_init::Message::KillAll(KillAll {});
    for (kill, left) in [(kill_run, "server\n"), (kill_all, "")] {
        begin(&mut sandbox, "background server\nhang").await;
        assert!(matches!(
            next(&mut sandbox).await,
            from_init::Message::Started(_)
        ));
        send(&mut sandbox, kill).await;
        let (_, end) = until_the_end(&mut sandbox).await;
        let from_init::Message::Exited(exited) = end else {
            panic!("{end:?}");
        };
        assert_eq!(exited.how, Some(How::Signal(9)));
        assert_eq!(run(&mut sandbox, "ps").await, left);
    }
}

#[tokio::test]
async fn files_come_whole_and_in_one_place_at_a_time() {
    let engine = engine();
    let mut sandbox = engine.create(&spec(true)).await.unwrap();
    let piece = |data: &str, append: bool, last: bool| {
        let root = Root::Tmp.into();
        let piece = file("a/b", data);
        to_init::Message::File(File {
            append,
            last,
            root,
            mode: 0o600,
            ..piece
        })
    };
    send(&mut sandbox, piece("one ", false, false)).await;
    assert_eq!(list(&mut sandbox, Root::Tmp, "", 0).await, "[][a]");
    send(&mut sandbox, piece("one ", false, false)).await;
    send(&mut sandbox, piece("two", true, true)).await;
    let (_, end) = until_the_end(&mut sandbox).await;
    let bytes = 7;
    let written = isol8_proto::init::FileWritten { bytes };
    assert_eq!(end, from_init::Message::FileWritten(written));
    assert_eq!(list(&mut sandbox, Root::Tmp, "", 0).await, "[][a][a/b]");
    assert_eq!(list(&mut sandbox, Root::Sandbox, "", 0).await, "[]");
    assert_eq!(run(&mut sandbox, "read /tmp/a/b").await, "one two");

    let file_of = |path: &str| to_init::Message::File(file(path, "x"));
    let bad = |errno| (Refused::BadPath, errno);
    let found = refused(&mut sandbox, file_of("../x")).await;
    assert_eq!(found, bad(libc::EINVAL));
    let below_a_file = refused(&mut sandbox, file_of("main.py/x")).await;
    assert_eq!(below_a_file, bad(libc::ENOTDIR));
    let too_much = to_init::Message::File(File {
        data: vec![0; 600 << 10].into(),
        ..file("big", "")
    });
    send(&mut sandbox, too_much.clone()).await;
    let (_, end) = until_the_end(&mut sandbox).await;
    assert!(matches!(end, from_init::Message::FileWritten(_)));
    let full = refused(&mut sandbox, too_much).await;
    assert_eq!(full, (Refused::NoSpace, libc::ENOSPC));

    let fetch = |path: &str| Fetch {
        path: path.to_owned().into(),
        max_entries: 2,
        max_bytes: 10,
        credit: 1000,
        ..Fetch::default()
    };
    let nothing = refused(&mut sandbox, to_init::Message::Fetch(fetch("none"))).await;
    assert_eq!(nothing, bad(libc::ENOENT));
    let large = refused(&mut sandbox, to_init::Message::Fetch(fetch("big"))).await;
    assert_eq!(large, (Refused::NoSpace, libc::EFBIG));
    let many = Fetch {
        names_only: true,
        ..fetch("")
    };
    let many = refused(&mut sandbox, to_init::Message::Fetch(many)).await;
    assert_eq!(many, (Refused::NoSpace, libc::E2BIG));
    let elsewhere = Fetch {
        root: 2,
        ..fetch("")
    };
    let elsewhere = refused(&mut sandbox, to_init::Message::Fetch(elsewhere)).await;
    assert_eq!(elsewhere, bad(libc::EINVAL));
}

#[tokio::test]
async fn folders_are_made_and_removed() {
    let engine = engine();
    let mut sandbox = engine.create(&spec(true)).await.unwrap();
    let folder = |path: &str| {
        to_init::Message::Folder(Folder {
            path: path.to_owned().into(),
            ..Folder::default()
        })
    };
    let remove = |path: &str, recursive| {
        to_init::Message::Remove(Remove {
            path: path.to_owned().into(),
            recursive,
            ..Remove::default()
        })
    };
    let link = to_init::Message::Symlink(Symlink {
        path: "a/b/link".into(),
        target: "../x".into(),
        ..Symlink::default()
    });
    for order in [folder("a/b"), folder("a/b"), folder(""), link] {
        send(&mut sandbox, order).await;
        let (_, end) = until_the_end(&mut sandbox).await;
        assert!(matches!(end, from_init::Message::Done(_)), "{end:?}");
    }
    let bad = |errno| (Refused::BadPath, errno);
    let whole = refused(&mut sandbox, remove("a", false)).await;
    assert_eq!(whole, bad(libc::EISDIR));
    send(&mut sandbox, remove("a", true)).await;
    let (_, end) = until_the_end(&mut sandbox).await;
    assert!(matches!(end, from_init::Message::Done(_)), "{end:?}");
    let gone = refused(&mut sandbox, remove("a", true)).await;
    assert_eq!(gone, bad(libc::ENOENT));
    let root = refused(&mut sandbox, remove("", true)).await;
    assert_eq!(root, bad(libc::EINVAL));
}

#[tokio::test]
async fn one_at_a_time_but_in_a_lasting_one_a_program_and_a_tree() {
    let engine = engine();
    let fetch = |credit| {
        to_init::Message::Fetch(Fetch {
            path: "main.py".into(),
            max_bytes: 100,
            max_entries: 1,
            credit,
            ..Fetch::default()
        })
    };
    for lasting in [false, true] {
        let mut sandbox = engine.create(&spec(lasting)).await.unwrap();
        begin(&mut sandbox, "hang").await;
        send(&mut sandbox, exec("python /sandbox/main.py")).await;
        let (_, end) = until_the_end(&mut sandbox).await;
        let busy = Failed {
            files: false,
            ..match end {
                from_init::Message::Failed(ref failed) => failed.clone(),
                ref other => panic!("{other:?}"),
            }
        };
        assert_eq!(end, from_init::Message::Failed(busy.clone()));
        assert_eq!(busy.errno, libc::EBUSY);
        send(&mut sandbox, fetch(0)).await;
        if !lasting {
            let (_, end) = until_the_end(&mut sandbox).await;
            let files = true;
            assert_eq!(end, from_init::Message::Failed(Failed { files, ..busy }));
            continue;
        }
        assert!(matches!(
            next(&mut sandbox).await,
            from_init::Message::Entry(_)
        ));
        // The second ends the first, with one answer for both.
        let (kind, errno) = refused(&mut sandbox, fetch(100)).await;
        assert_eq!((kind, errno), (Refused::Other, libc::EBUSY));
        send(&mut sandbox, fetch(100)).await;
        let (text, end) = until_the_end(&mut sandbox).await;
        assert_eq!(text, "[]hang");
        let (bytes, entries) = (4, 1);
        let fetched = Fetched { bytes, entries };
        assert_eq!(end, from_init::Message::Fetched(fetched));
    }
}
