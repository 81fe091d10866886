//! A daemon of the benchmark's own, in folders of its own, gone at the end.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use isol8_proto::v1::{
    Engine, Runtime, StatusRequest, StatusResponse, WarmRequest,
    admin_service_client::AdminServiceClient, run_service_client::RunServiceClient,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

/// The longest that a daemon may take to answer, or a sandbox to be warm.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon and ways to reach it.
#[derive(Debug)]
pub(crate) struct Stage {
    bin: PathBuf,
    folder: TempDir,
    daemon: Child,
    channel: Channel,
}

impl Stage {
    /// Starts `isol8d` and waits until it answers. `config` is its whole
    /// configuration file.
    ///
    /// # Errors
    /// The binaries are not there, or the daemon does not answer in time.
    pub(crate) async fn start(config: &str) -> anyhow::Result<Self> {
        let bin = env::var_os("ISOL8_BIN_DIR").map_or_else(|| "target/dist".into(), PathBuf::from);
        let bin = fs::canonicalize(&bin)
            .with_context(|| format!("no binaries in `{}`: run `make release`", bin.display()))?;
        let folder = tempfile::Builder::new().prefix("isol8-bench").tempdir()?;
        // Slot uids have to reach the sockets of their sandboxes.
        open_to_all(folder.path())?;
        fs::write(folder.path().join("config.json"), config)?;
        let log = fs::File::create(folder.path().join("daemon.log"))?;
        let daemon = environment(&mut Command::new(bin.join("isol8d")), folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start isol8d")?;
        let socket = folder.path().join("run/isol8d.sock");
        let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))?
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_lazy();
        let mut stage = Self {
            bin,
            folder,
            daemon,
            channel,
        };
        stage.answering().await?;
        Ok(stage)
    }

    async fn answering(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if self.status().await.is_ok() {
                return Ok(());
            }
            let over = self.daemon.try_wait()?.is_some() || start.elapsed() > PATIENCE;
            if over {
                let log = fs::read_to_string(self.folder.path().join("daemon.log"))?;
                bail!("the daemon does not answer:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The command line client, pointed at this daemon.
    pub(crate) fn isol8(&self) -> Command {
        let mut command = Command::new(self.bin.join("isol8"));
        environment(&mut command, self.folder.path());
        command
    }

    /// A client for runs on the one open connection.
    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    pub(crate) async fn status(&self) -> anyhow::Result<StatusResponse> {
        let mut admin = AdminServiceClient::new(self.channel.clone());
        Ok(admin.status(StatusRequest {}).await?.into_inner())
    }

    /// Waits until `count` sandboxes are warm.
    pub(crate) async fn warm(
        &self,
        runtime: Runtime,
        engine: Engine,
        count: u32,
    ) -> anyhow::Result<()> {
        let mut admin = AdminServiceClient::new(self.channel.clone());
        let order = WarmRequest {
            runtime: runtime.into(),
            engine: engine.into(),
            count,
        };
        tokio::time::timeout(PATIENCE, admin.warm(order))
            .await
            .context("nothing got warm in time")??;
        Ok(())
    }

    pub(crate) fn daemon_pid(&self) -> Option<u32> {
        self.daemon.id()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Ends the daemon as an operator would, and waits for it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.daemon.id().context("the daemon is gone already")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        tokio::time::timeout(PATIENCE, self.daemon.wait())
            .await
            .context("the daemon does not end")??;
        Ok(())
    }
}

fn environment<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    command
        .env("ISOL8_SOCKET", folder.join("run/isol8d.sock"))
        .env("ISOL8_STATE_DIR", folder.join("state"))
        .env("ISOL8_CONFIG", folder.join("config.json"))
}

fn open_to_all(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    Ok(())
}
