//! Sessions belong to whom made them: nobody else sees or reaches them, and the
//! same name is another session for somebody else.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use isol8_e2e::harness::stage::Stage;
use isol8_proto::v1::{
    AdoptRequest, DeleteRequest, Engine as WireEngine, GetRequest, ListSessionsRequest, PutRequest,
    PutStart, RemoveSessionRequest, RunRequest, Runtime, Start, put_request, run_event,
    run_request, run_service_client::RunServiceClient,
    session_service_client::SessionServiceClient,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::unprivileged::{SOMEBODY, scene};

both_engines! {
    /// The socket stands open by mistake: a stranger still learns nothing.
    fn strangers_are_turned_away(stage: &Stage) {
        let work = stage.session("work");
        work.bash("echo mine > f").go().ok();
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        open(&stage.folder().join("run"), 0o755);
        open(&stage.folder().join("config.json"), 0o644);
        open(&stage.socket(), 0o666);
        let isol8 = stage.folder().join("isol8");
        std::fs::copy(stage.binary("isol8").get_program(), &isol8).expect("a copy for everybody");
        for args in [
            &["session", "ls", "--json"][..],
            &["session", "ls", "work:/"],
            &["session", "cp", "work:f", "-"],
            &["session", "rm", "--force", "work"],
            &["run", "--session", "work", "-r", "bash", "-e", "cat f"],
            &["cleanup", "--force"],
        ] {
            let ran = stage.isol8(args).tweak(|command| {
                let mut other = Command::new("setpriv");
                other.args(["--reuid", "54322", "--regid", "54322", "--clear-groups", "--"]).arg(&isol8);
                other.args(command.get_args()).env_clear().env("HOME", "/nonexistent");
                other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                *command = other;
            }).go();
            assert_ne!(ran.code(), 0, "{ran:?}");
            assert!(!ran.out().contains("mine") && !ran.out().contains("work"), "{ran:?}");
        }
        assert_eq!(work.bash("cat f").go().ok(), "mine\n");
        work.remove();
    }
}

/// Root, at the socket of somebody's daemon.
struct Root {
    channel: Channel,
}

impl Root {
    fn dial(stage: &Stage) -> Self {
        let path = format!("unix://{}", stage.socket().display());
        let endpoint = Endpoint::from_shared(path).expect("an address");
        Self {
            channel: endpoint.connect_lazy(),
        }
    }

    fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
    }

    async fn names(&self) -> Vec<String> {
        let mut client = self.sessions();
        let listed = client.list(ListSessionsRequest { sizes: false });
        let listed = listed.await.expect("an answer").into_inner().sessions;
        listed.into_iter().map(|session| session.name).collect()
    }

    /// What a run of bash in a session prints.
    async fn bash(&self, session: &str, code: &str) -> String {
        let start = Start {
            runtime: Runtime::Bash.into(),
            engine: WireEngine::Native.into(),
            code: code.as_bytes().to_vec().into(),
            session: Some(session.to_owned()),
            ..Start::default()
        };
        let request = RunRequest {
            message: Some(run_request::Message::Start(start)),
        };
        let mut client = RunServiceClient::new(self.channel.clone());
        let events = client.run(tokio_stream::once(request)).await;
        let mut events = events.expect("a run").into_inner();
        let mut out = Vec::new();
        while let Some(event) = events.message().await.expect("events") {
            if let Some(run_event::Event::Stdout(bytes)) = event.event {
                out.extend_from_slice(&bytes);
            }
        }
        String::from_utf8(out).expect("text")
    }

    /// Everything that names a session of somebody else's.
    async fn reaches_nothing(&self, session: &str, sandbox: &str) {
        let get = GetRequest {
            session: session.to_owned(),
            path: b"f".to_vec().into(),
            ..GetRequest::default()
        };
        let delete = DeleteRequest {
            session: session.to_owned(),
            path: b"f".to_vec().into(),
            recursive: true,
        };
        let remove = RemoveSessionRequest {
            name: session.to_owned(),
            force: true,
        };
        let adopt = AdoptRequest {
            sandbox_id: sandbox.to_owned(),
            name: "stolen".to_owned(),
        };
        let put = PutStart {
            session: session.to_owned(),
            path: b"f".to_vec().into(),
        };
        let put = PutRequest {
            message: Some(put_request::Message::Start(put)),
        };
        let mut client = self.sessions();
        let got = match client.get(get).await {
            Ok(answer) => answer.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        let refusals = [
            got.expect_err("a refusal"),
            client.delete(delete).await.expect_err("a refusal"),
            client.remove(remove).await.expect_err("a refusal"),
            client.adopt(adopt).await.expect_err("a refusal"),
            client
                .put(tokio_stream::once(put))
                .await
                .expect_err("a refusal"),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), Code::NotFound, "{refusal:?}");
        }
    }
}

/// Two that a daemon serves: its own user, and root. XR06.
#[test]
fn one_name_is_a_session_for_each() {
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        // A v2 host delegates through its service manager, not through us.
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("the kernel gives an event loop");
    scene("00000000000e2e04", |scene| {
        scene.delegate();
        scene.start_daemon();
        let mine = |args: &[&str]| scene.isol8(args).go();
        let run = |code: &str| mine(&["run", "--session", "work", "-r", "bash", "-e", code]);
        run(&format!("echo of {SOMEBODY} > f")).ok();
        let listed = mine(&["session", "ls", "--json"]);
        let sandbox = listed.json()["sessions"][0]["sandboxId"]
            .as_str()
            .expect("an id")
            .to_owned();
        runtime.block_on(async {
            let root = Root::dial(scene.stage);
            assert_eq!(root.names().await, [""; 0], "nothing of somebody else's");
            root.reaches_nothing("work", &sandbox).await;
            assert_eq!(
                root.bash("work", "ls -A; echo of root > f").await,
                "main.sh\n"
            );
            assert_eq!(root.names().await, ["work"]);
        });
        assert_eq!(run("cat f").ok(), format!("of {SOMEBODY}\n"));
        let listed = mine(&["session", "ls", "--json"]).json();
        assert_eq!(
            listed["sessions"].as_array().map(Vec::len),
            Some(1),
            "{listed}"
        );
        assert_eq!(listed["sessions"][0]["sandboxId"], sandbox.as_str());
        // Across a restart each still has its own.
        scene.stage.crash_daemon();
        scene.start_daemon();
        runtime.block_on(async {
            let root = Root::dial(scene.stage);
            assert_eq!(root.bash("work", "cat f").await, "of root\n");
            let remove = RemoveSessionRequest {
                name: "work".to_owned(),
                force: false,
            };
            root.sessions().remove(remove).await.expect("it is root's");
        });
        assert_eq!(run("cat f").ok(), format!("of {SOMEBODY}\n"));
        mine(&["session", "rm", "work"]).ok();
        scene.stage.stop_daemon();
        let left = scene.stage.leftovers();
        assert!(
            left.processes.is_empty() && left.folders.is_empty(),
            "{left:#?}"
        );
    });
}
