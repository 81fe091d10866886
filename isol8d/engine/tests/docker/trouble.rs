//! What goes wrong, and what is left then.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isol8_core::{failure::FailureKind, sandbox::ImageName};
use isol8_engine::{CREATE_DEADLINE, Engine, ProbeStatus, docker::DockerSettings, meet::folder_of};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, PATIENCE, script, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_start_is_removed() {
    let bench = Bench::with_init(|_| ());
    bench.engine.prepare(&spec().key, &|_| ()).await.unwrap();
    for _ in 0..3 {
        let failure = bench.engine.create(&spec()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::EngineRefused, "{failure}");
    }
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_ends_at_once_is_noticed() {
    let bench = Bench::with_init(script("#!/bin/bash\nexit 3\n"));
    bench.engine.prepare(&spec().key, &|_| ()).await.unwrap();
    let began = Instant::now();
    let failure = bench.engine.create(&spec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EngineRefused, "{failure}");
    assert!(failure.to_string().contains("code 3"), "{failure}");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "it waited for a call"
    );
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_never_dials_is_given_up() {
    let bench = Bench::with_init(script("#!/bin/bash\nexec sleep 600\n"));
    bench.engine.prepare(&spec().key, &|_| ()).await.unwrap();
    let began = Instant::now();
    let failure = bench.engine.create(&spec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EngineTimeout, "{failure}");
    assert!(began.elapsed() < CREATE_DEADLINE + Duration::from_secs(5));
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_said_to_be_missing() {
    let bench = Bench::ready().await;
    let mut spec = spec();
    for name in ["isol8-test/none:none", "sha256:0000"] {
        spec.key.image = Some(ImageName::parse(name).unwrap());
        let failure = bench.engine.create(&spec).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ImageMissing, "{failure}");
        let failure = bench.engine.prepare(&spec.key, &|_| ()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ImageMissing, "{failure}");
        assert!(failure.hint.unwrap().contains(name));
    }
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_creation_undoes_itself() {
    let bench = Bench::ready().await;
    for patience_ms in [0, 5, 30, 80, 120] {
        let spec = spec();
        let patience = Duration::from_millis(patience_ms);
        drop(timeout(patience, bench.engine.create(&spec)).await);
        // As the daemon does for a sandbox whose making it no longer awaits.
        bench.engine.destroy(&spec.id).await.unwrap();
        assert!(
            !bench.own().await.contains(&spec.id),
            "after {patience_ms} ms"
        );
    }
    bench.nothing_is_left().await;

    let spec = spec();
    drop(timeout(Duration::from_millis(10), bench.engine.create(&spec)).await);
    // Nobody destroys it.
    let end = Instant::now() + PATIENCE;
    let folder = folder_of(&bench.place.runtime_dir, &spec.id);
    while !bench.own().await.is_empty() || folder.exists() {
        assert!(Instant::now() < end, "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_destroy_at_once_both_see_it_gone() {
    let bench = Bench::ready().await;
    let spec = spec();
    let _sandbox = bench.engine.create(&spec).await.unwrap();
    let destroy = || bench.engine.destroy(&spec.id);
    let results = tokio::join!(destroy(), destroy(), destroy());
    assert_eq!(results, (Ok(()), Ok(()), Ok(())));
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_listed_under_their_own_daemon() {
    let bench = Bench::ready().await;
    let other = Bench::ready().await;
    let spec = spec();
    let _sandbox = other.engine.create(&spec).await.unwrap();
    let found = bench.engine.list().await.unwrap();
    let found = found.iter().find(|found| found.id == spec.id).unwrap();
    assert_eq!(found.daemon, other.place.daemon);
    assert!(bench.engine.daemon_is_alive(&found.daemon).await);
    drop(other);
    assert!(!bench.engine.daemon_is_alive(&found.daemon).await);
    bench.engine.destroy(&found.id).await.unwrap();
    let found = bench.engine.list().await.unwrap();
    assert!(found.iter().all(|found| found.id != spec.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_late() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let hung = async {
        let mut taken = Vec::new();
        loop {
            taken.push(listener.accept().await.unwrap());
        }
    };
    let bench = Bench::with(at(&socket), |_| ());
    let began = Instant::now();
    let spec = spec();
    let questions = async {
        tokio::join!(
            bench.engine.health(),
            bench.engine.create(&spec),
            bench.engine.list(),
            bench.engine.images(),
            bench.engine.prepare(&spec.key, &|_| ()),
            bench.engine.doctor(),
        )
    };
    let (health, create, list, images, prepare, doctor) = tokio::select! {
        answers = questions => answers,
        () = hung => unreachable!("it takes calls for ever"),
    };
    assert!(began.elapsed() < CREATE_DEADLINE, "{:?}", began.elapsed());
    assert!(!health.healthy, "{health:?}");
    assert_eq!(doctor[0].status, ProbeStatus::Failed);
    let kinds = [
        create.unwrap_err().kind,
        list.unwrap_err().kind,
        images.unwrap_err().kind,
        prepare.unwrap_err().kind,
    ];
    assert_eq!(kinds, [FailureKind::EngineTimeout; 4]);
}

/// What a held question waits for, and what its answer sets.
#[derive(Debug, Clone, Default)]
struct Hold {
    release: CancellationToken,
    answered: CancellationToken,
}

/// Passes questions on to the real engine, but keeps the one whose line has
/// `held` until told, whether or not the one who asked still waits.
async fn slow_engine(socket: PathBuf, held: &'static str, hold: Hold) {
    let listener = UnixListener::bind(&socket).unwrap();
    let mut talks = JoinSet::new();
    loop {
        let (mut asker, _) = listener.accept().await.unwrap();
        let hold = hold.clone();
        talks.spawn(async move {
            let mut question = vec![0; 64 << 10];
            let length = asker.read(&mut question).await.unwrap();
            let line = String::from_utf8_lossy(&question[..length.min(200)]);
            let is_held = line.contains(held);
            if is_held {
                hold.release.cancelled().await;
            }
            let mut engine = UnixStream::connect("/var/run/docker.sock").await.unwrap();
            engine.write_all(&question[..length]).await.unwrap();
            if is_held {
                engine.readable().await.unwrap();
                hold.answered.cancel();
            }
            let (mut from_asker, mut to_asker) = asker.split();
            let (mut from_engine, mut to_engine) = engine.split();
            let rest = tokio::io::copy(&mut from_asker, &mut to_engine);
            let answer = tokio::io::copy(&mut from_engine, &mut to_asker);
            // Either may find the one who asked gone.
            drop(tokio::join!(rest, answer));
        });
    }
}

async fn nothing_comes_late(held: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let hold = Hold::default();
    let mut engines = JoinSet::new();
    engines.spawn(slow_engine(socket.clone(), held, hold.clone()));
    let bench = Bench::with(at(&socket), |_| ());
    let failure = bench.engine.create(&spec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EngineTimeout, "{failure}");
    bench.nothing_is_left().await;
    hold.release.cancel();
    timeout(PATIENCE, hold.answered.cancelled()).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_wakes_up_makes_nothing_that_was_given_up() {
    Bench::ready().await;
    tokio::join!(
        nothing_comes_late("POST /containers/create"),
        nothing_comes_late("/start HTTP"),
    );
}

#[tokio::test]
async fn an_absent_engine_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("none.sock");
    // A socket that nobody listens on any more.
    let stale = folder.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    for socket in [gone, stale] {
        let bench = Bench::with(at(&socket), |_| ());
        assert!(!bench.engine.health().await.healthy);
        let spec = spec();
        let kinds = [
            bench.engine.create(&spec).await.unwrap_err().kind,
            bench.engine.list().await.unwrap_err().kind,
            bench.engine.destroy(&spec.id).await.unwrap_err().kind,
        ];
        assert_eq!(
            kinds,
            [FailureKind::EngineUnreachable; 3],
            "{}",
            socket.display()
        );
    }
}

fn at(socket: &Path) -> DockerSettings {
    DockerSettings {
        host: Some(format!("unix://{}", socket.display())),
        ..DockerSettings::default()
    }
}
