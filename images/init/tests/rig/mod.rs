//! A sandbox for a test: init as PID 1 in a jail, and the daemon's end of its
//! stream.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use isol8_proto::init::{
    Command, Credit, EnvVar, Exec, Exited, Failed, File, FromInit, Hello, Prepare, Root, Signal,
    ToInit, exited::How, from_init, to_init,
};
use nix::{
    sys::signal::{Signal::SIGKILL, kill},
    sys::socket::{MsgFlags, recv},
    unistd::Pid,
};
use prost::Message as _;

/// Long enough for a loaded machine, short enough to fail.
const PATIENCE: Duration = Duration::from_secs(20);

/// What init is given to send before it must wait for more.
pub(crate) const PLENTY: u64 = 1 << 40;

/// For a user of its own for each sandbox.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A live sandbox.
#[derive(Debug)]
pub(crate) struct Rig {
    jail: Child,
    link: UnixStream,
    pending: VecDeque<u8>,
    folder: tempfile::TempDir,
}

/// How a program ended and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) how: Option<How>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The kernel ends what is in the namespace with it. An init that lasts
        // would not mind that it is alone.
        let inside = descendants(self.jail.id());
        let _it_may_be_gone = self.jail.kill();
        for pid in inside.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
            let _it_may_be_gone = kill(Pid::from_raw(pid), SIGKILL);
        }
        let _nothing_to_do = self.jail.wait();
    }
}

/// bubblewrap with what every jail here has, as a user of its own.
fn confined() -> Process {
    const NAMESPACES: &str = "--unshare-user --uid 65534 --gid 65534 --unshare-pid --unshare-net \
         --unshare-ipc --as-pid-1 --cap-drop ALL --clearenv --chdir /";
    const SYSTEM: &str = "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib \
         --symlink usr/lib64 /lib64 --ro-bind-try /etc/alternatives /etc/alternatives \
         --ro-bind-try /etc/python3.11 /etc/python3.11 \
         --ro-bind-try /etc/python3.13 /etc/python3.13 \
         --proc /proc --dev /dev --tmpfs /tmp --tmpfs /sandbox";
    let mut jail = Process::new("bwrap");
    jail.args(NAMESPACES.split_whitespace())
        .args(SYSTEM.split_whitespace());
    if let Some(prefix) = other_prefix() {
        jail.args(["--ro-bind", &prefix, &prefix]);
    }
    if nix::unistd::geteuid().is_root() {
        // Root that makes a user namespace stays root behind it.
        let uid = 300_000 + std::process::id() % 10_000 * 100 + NEXT.fetch_add(1, Relaxed) % 100;
        jail.uid(uid).gid(uid);
    }
    jail
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the hooks") {
        let entry = entry.expect("a hook");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository")
}

impl Rig {
    /// Init in a jail of its own that has greeted.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// The same, in a sandbox that outlives its stream.
    pub(crate) fn lasting() -> Self {
        let (rig, hello) = Self::start_as(&["--lasting"]);
        assert!(hello.lasting && hello.token.is_empty(), "{hello:?}");
        rig
    }

    /// The same, with more options for bubblewrap and a command inside that
    /// execs init.
    pub(crate) fn start_with(options: &[&str], before: &[&str]) -> Self {
        let mut rig = Self::launch(options, before, &[]);
        let hello = rig.hello();
        assert!(!hello.lasting && !hello.parked, "{hello:?}");
        rig
    }

    /// The same, with arguments for init itself.
    pub(crate) fn start_as(args: &[&str]) -> (Self, Hello) {
        let mut rig = Self::launch(&[], &[], args);
        let hello = rig.hello();
        (rig, hello)
    }

    fn hello(&mut self) -> Hello {
        match self.recv() {
            from_init::Message::Hello(hello) => {
                assert_eq!(hello.protocol, 1);
                hello
            }
            other => panic!("init began with {other:?}"),
        }
    }

    /// Init in a jail of its own that has dialled.
    pub(crate) fn launch(options: &[&str], before: &[&str], args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let init = folder.path().join("init");
        fs::copy(env!("CARGO_BIN_EXE_isol8-init"), &init).expect("a copy of init");
        let park = folder.path().join("park");
        copy_tree(&repository().join("images/park"), &park);
        for (path, mode) in [(folder.path(), 0o755), (&socket, 0o777), (&init, 0o555)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
        }
        let mut jail = confined();
        for (from, to) in [
            (init.as_path(), "/isol8/kit/init"),
            (&park, "/isol8/kit/park"),
            (folder.path(), "/isol8/link"),
        ] {
            jail.arg("--ro-bind").arg(from).arg(to);
        }
        let jail = jail
            .args(options)
            .arg("--")
            .args(before)
            .args(["/isol8/kit/init", "/isol8/link/sock"])
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .expect("these tests need bubblewrap: install `bubblewrap`");
        Self {
            jail,
            link: accept(&listener),
            pending: VecDeque::new(),
            folder,
        }
    }

    /// Listens anew where init dials.
    pub(crate) fn listen(&self) -> UnixListener {
        let socket = self.folder.path().join("sock");
        fs::remove_file(&socket).expect("the socket of before");
        let listener = UnixListener::bind(&socket).expect("a socket");
        fs::set_permissions(&socket, Permissions::from_mode(0o777)).expect("a mode");
        listener
    }

    /// Loses the stream if it is still there, and is dialled again.
    pub(crate) fn meet_again(&mut self) -> Hello {
        self.hang_up();
        self.link = accept(&self.listen());
        self.pending.clear();
        self.hello()
    }

    /// The stream itself, for what is not a frame.
    pub(crate) const fn link(&self) -> &UnixStream {
        &self.link
    }

    /// Takes the next stream.
    pub(crate) fn take_call(&mut self, listener: &UnixListener) {
        self.link = accept(listener);
        self.pending.clear();
    }

    /// Id of the jail's outermost process on the host.
    pub(crate) fn jail_pid(&self) -> u32 {
        self.jail.id()
    }

    /// What init costs: its processor time in ticks and its memory in pages.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let init = descendants(self.jail_pid())[0];
        let stat = fs::read_to_string(format!("/proc/{init}/stat")).expect("init");
        let behind = stat.rsplit(')').next().expect("fields");
        let fields: Vec<u64> = behind
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        // utime and stime, and rss.
        (fields[11] + fields[12], fields[21])
    }

    /// Whether init has begun to send, and can send no more for now.
    pub(crate) fn is_stuck(&self) -> bool {
        let stream = self.link.as_raw_fd();
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let begun = recv(stream, &mut [0], flags).is_ok_and(|count| count > 0);
        let init = descendants(self.jail_pid())[0];
        let stat = fs::read_to_string(format!("/proc/{init}/stat")).expect("init");
        begun
            && stat
                .rsplit(')')
                .next()
                .is_some_and(|behind| behind.starts_with(" S"))
    }

    /// Starts a fork bomb that has gone off.
    pub(crate) fn start_bomb(&mut self) {
        self.start_command(bash(
            "ulimit -Su 200; echo ready; f() { f | f & }; f 2>/dev/null; sleep 60",
        ));
        self.wait_for_output("ready\n");
        let mut most = 0;
        let off = wait_for(|| {
            most = most.max(descendants(self.jail_pid()).len());
            most > 100
        });
        assert!(off, "at most {most} processes");
    }

    /// Waits until nobody is there but init and the program that looks.
    pub(crate) fn becomes_empty(&mut self) {
        let alone = "until set -- /proc/[0-9]*; [ $# -le 2 ]; do :; done; echo alone";
        assert_eq!(self.bash(alone).stdout, "alone\n");
    }

    pub(crate) fn send(&mut self, message: to_init::Message) {
        self.try_send(message).expect("sent to init");
    }

    /// Sends to an init that may be ending because of what it was sent.
    pub(crate) fn try_send(&mut self, message: to_init::Message) -> io::Result<()> {
        self.link.write_all(&frame(message))
    }

    /// Sends messages that init hears at once.
    pub(crate) fn send_together(&mut self, messages: impl IntoIterator<Item = to_init::Message>) {
        let frames: Vec<u8> = messages.into_iter().flat_map(frame).collect();
        self.send_raw(&frames);
    }

    /// Sends bytes that are no message.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.link.write_all(bytes).expect("sent to init");
    }

    /// Ends the stream.
    pub(crate) fn hang_up(&mut self) {
        let _it_may_have_ended = self.link.shutdown(std::net::Shutdown::Both);
    }

    pub(crate) fn recv(&mut self) -> from_init::Message {
        self.recv_within(PATIENCE)
            .expect("init said nothing in time")
    }

    /// The next message, or `None` when none comes in time. Panics at the end
    /// of the stream.
    pub(crate) fn recv_within(&mut self, patience: Duration) -> Option<from_init::Message> {
        let deadline = Instant::now() + patience;
        let mut chunk = vec![0; 1 << 20];
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.link.set_read_timeout(Some(left)).expect("a timeout");
            match self.link.read(&mut chunk) {
                Ok(0) => panic!("init closed the stream"),
                Ok(count) => self.pending.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the stream broke: {error}"),
            }
        }
    }

    fn take(&mut self) -> Option<from_init::Message> {
        let head: Vec<u8> = self.pending.iter().take(4).copied().collect();
        let length = u32::from_le_bytes(head.try_into().ok()?) as usize;
        if self.pending.len() < 4 + length {
            return None;
        }
        let frame: Vec<u8> = self.pending.drain(..4 + length).skip(4).collect();
        FromInit::decode(&frame[..]).expect("a message").message
    }

    /// Whether init has ended; waits for that.
    pub(crate) fn wait_for_end(&mut self) -> bool {
        wait_for(|| self.jail.try_wait().expect("a status").is_some())
    }

    /// Parks what `command` says; whether it then waits.
    pub(crate) fn prepare(&mut self, command: Option<Command>) -> bool {
        self.send(to_init::Message::Prepare(Prepare {
            parked: command,
            token: Vec::new().into(),
        }));
        match self.recv() {
            from_init::Message::Ready(ready) => ready.parked,
            other => panic!("expected Ready, got {other:?}"),
        }
    }

    /// Sends a command about files that is answered by `Done`.
    pub(crate) fn order(&mut self, order: to_init::Message) -> Result<(), Failed> {
        self.send(order);
        match self.recv() {
            from_init::Message::Done(_) => Ok(()),
            from_init::Message::Failed(failed) => {
                assert!(failed.files, "{failed:?}");
                Err(failed)
            }
            other => panic!("expected Done, got {other:?}"),
        }
    }

    /// Puts a file below /sandbox.
    pub(crate) fn put(&mut self, path: &str, data: &[u8]) -> Result<u64, Failed> {
        self.put_below(Root::Sandbox, path, data)
    }

    pub(crate) fn put_below(&mut self, root: Root, path: &str, data: &[u8]) -> Result<u64, Failed> {
        let mut pieces: Vec<_> = data.chunks(512 << 10).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let count = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            self.send(to_init::Message::File(File {
                path: path.to_owned().into(),
                data: piece.to_vec().into(),
                append: index > 0,
                last: index + 1 == count,
                mode: 0o644,
                root: root.into(),
            }));
        }
        match self.recv() {
            from_init::Message::FileWritten(written) => Ok(written.bytes),
            from_init::Message::Failed(failed) => Err(failed),
            other => panic!("expected FileWritten, got {other:?}"),
        }
    }

    /// Sends an `Exec` and takes `Started`.
    pub(crate) fn exec(&mut self, exec: Exec) -> Result<bool, Failed> {
        self.send(to_init::Message::Exec(exec));
        match self.recv() {
            from_init::Message::Started(started) => {
                assert_eq!(started.stdin_credit, 256 << 10);
                Ok(started.parked)
            }
            from_init::Message::Failed(failed) => Err(failed),
            other => panic!("expected Started, got {other:?}"),
        }
    }

    /// Starts a command without stdin and with plenty of credit.
    pub(crate) fn start_command(&mut self, command: Command) {
        self.exec(plain(command)).expect("started");
    }

    /// Starts it with a stdin.
    pub(crate) fn start_with_stdin(&mut self, command: Command) {
        self.exec(Exec {
            stdin: true,
            ..plain(command)
        })
        .expect("started");
    }

    /// Runs a shell script to its end.
    pub(crate) fn bash(&mut self, script: &str) -> Outcome {
        self.start_command(bash(script));
        self.outcome()
    }

    /// Waits until these commands that sleep are there and no others, one a line:
    /// what was killed may still be on its way out.
    #[track_caller]
    pub(crate) fn sleepers_become(&mut self, expected: &str) {
        let script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' 2>/dev/null < $f; echo; done \
             | grep '^sleep' | sort";
        let mut there = String::new();
        wait_for(|| {
            there = self.bash(script).stdout;
            there == expected
        });
        assert_eq!(there, expected);
    }

    /// Collects output until the program has ended.
    pub(crate) fn outcome(&mut self) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exited = self.drain(&mut stdout, &mut stderr);
        Outcome {
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            how: exited.how,
        }
    }

    pub(crate) fn drain(&mut self, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> Exited {
        loop {
            match self.recv() {
                from_init::Message::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                from_init::Message::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                from_init::Message::StdinCredit(_) => {}
                from_init::Message::Exited(exited) => return exited,
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Reads output until it contains `mark`.
    pub(crate) fn wait_for_output(&mut self, mark: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(mark) {
            match self.recv() {
                from_init::Message::Stdout(bytes) => seen.extend_from_slice(&bytes),
                from_init::Message::StdinCredit(_) => {}
                other => panic!("waiting for `{mark}`, got {other:?}"),
            }
        }
    }

    pub(crate) fn signal(&mut self, number: i32) {
        self.send(to_init::Message::Signal(Signal { number }));
    }

    pub(crate) fn credit(&mut self, stdout: u64, stderr: u64) {
        self.send(to_init::Message::Credit(Credit {
            stdout,
            stderr,
            data: 0,
        }));
    }
}

fn frame(message: to_init::Message) -> Vec<u8> {
    let body = ToInit {
        message: Some(message),
    }
    .encode_to_vec();
    let head = u32::try_from(body.len()).expect("a frame").to_le_bytes();
    [&head[..], &body].concat()
}

fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).expect("a listener");
    let mut link = None;
    assert!(
        wait_for(|| {
            link = listener.accept().ok();
            link.is_some()
        }),
        "init did not dial: can bubblewrap make user namespaces here?",
    );
    let (link, _) = link.expect("just seen");
    link.set_nonblocking(false).expect("a stream");
    link
}

/// The processes below one, on the host.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children: Vec<u32> = children
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    children
        .iter()
        .flat_map(|pid| [vec![*pid], descendants(*pid)].concat())
        .collect()
}

/// A folder with `bin/` whose interpreters are tested instead of those below
/// `/usr`, from `ISOL8_TEST_PREFIX`.
pub(crate) fn other_prefix() -> Option<String> {
    std::env::var("ISOL8_TEST_PREFIX").ok()
}

/// Looks again and again until something holds; false when it never does.
pub(crate) fn wait_for(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

pub(crate) fn command(argv: &[&str], env: &BTreeMap<String, String>, cwd: &str) -> Command {
    let var = |(name, value): (&String, &String)| EnvVar {
        name: name.clone().into(),
        value: value.clone().into(),
    };
    Command {
        argv: argv.iter().map(|arg| arg.to_string().into()).collect(),
        env: env.iter().map(var).collect(),
        cwd: cwd.to_owned().into(),
    }
}

/// A script for bash, with a PATH and nothing else.
pub(crate) fn bash(script: &str) -> Command {
    let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
    command(&["bash", "-c", script], &env, "/sandbox")
}

/// An `Exec` without parked interpreter and stdin, with plenty of credit.
pub(crate) fn plain(command: Command) -> Exec {
    Exec {
        command: Some(command),
        use_parked: false,
        stdout_credit: PLENTY,
        stderr_credit: PLENTY,
        stdin: false,
    }
}
