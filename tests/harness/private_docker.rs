//! A Docker engine of one test's own, which may be stopped, frozen and killed
//! without hurting anybody else. Needs root, like the engine itself.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    host,
    wait::{seconds, wait_until},
};

/// A running `dockerd`.
#[derive(Debug)]
pub struct PrivateDocker {
    folder: TempDir,
    child: Option<Child>,
}

impl PrivateDocker {
    /// Starts an engine and gives it images of the shared one.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(images: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("e2e-docker-").tempdir();
        let mut engine = Self {
            folder: folder.expect("/tmp takes a folder"),
            child: None,
        };
        engine.revive();
        let list = images.join(" ");
        let host = engine.host();
        let copy = format!("docker save {list} | docker -H {host} load");
        drop(host::tool("sh", &["-c", &copy]));
        engine
    }

    /// The address for `docker.host`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}/docker.sock", self.folder.path().display())
    }

    /// Starts the engine again on its old folders.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn revive(&mut self) {
        let folder = self.folder.path().display().to_string();
        drop(fs::remove_file(format!("{folder}/pid")));
        let log = fs::File::create(format!("{folder}/log")).expect("the folder is ours");
        // In a network namespace of its own: with `--bridge none` dockerd removes
        // `docker0`, and there it must not be the one of the host's engine.
        let child = Command::new("unshare")
            .args(["--net", "--", "dockerd"])
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .args(["--data-root", &format!("{folder}/data")])
            .args(["--exec-root", &format!("{folder}/exec")])
            .args(["--pidfile", &format!("{folder}/pid")])
            .args(["--host", &self.host()])
            .args(["--bridge", "none", "--iptables=false", "--ip-forward=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        self.child = Some(child);
        wait_until("the private engine's answer", seconds(60), || {
            let mut docker = Command::new("docker");
            docker.args(["-H", &self.host(), "version"]);
            docker.output().is_ok_and(|output| output.status.success())
        });
    }

    fn send(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the engine runs");
        kill_process(Pid::from_child(child), signal).expect("the engine is ours");
    }

    /// Stops it in its tracks: connections are taken and never answered.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.send(Signal::STOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.send(Signal::CONT);
    }

    /// Kills it; containers live on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn crash(&mut self) {
        self.end(Signal::KILL);
    }

    /// Ends it as an operator would; containers end with it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    fn end(&mut self, signal: Signal) {
        self.send(signal);
        let mut child = self.child.take().expect("the engine runs");
        wait_until("the private engine's end", seconds(40), || {
            child.try_wait().is_ok_and(|status| status.is_some())
        });
    }

    /// Every container that it has.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        let format = "{{.ID}} {{.Names}}";
        let args = ["-H", &self.host(), "ps", "-a", "--format", format];
        let listed = host::tool("docker", &args);
        // An engine that was killed may list what it has removed for ever: by
        // then it has taken the name away, and knows nothing more of it.
        let named = listed.lines().filter_map(|line| line.split_once(' '));
        named
            .filter(|(_, name)| !name.is_empty())
            .map(|(id, _)| id.to_owned())
            .collect()
    }
}

impl Drop for PrivateDocker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let pid = Pid::from_child(child);
            kill_process(pid, Signal::CONT).ok();
            kill_process(pid, Signal::TERM).ok();
            drop(child.wait());
        }
        // After a crash its containerd is still there, and mounts with it.
        let folder = self.folder.path().display().to_string();
        for process in host::processes() {
            if process.argv.iter().any(|word| word.contains(&folder)) {
                kill_process(process.pid, Signal::KILL).ok();
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in ours.filter(|point| point.starts_with(&folder)) {
            drop(Command::new("umount").args(["-l", point]).output());
        }
    }
}
