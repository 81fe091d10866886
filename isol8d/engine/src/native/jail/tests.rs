//! The whole command line, as text.

use expect_test::{Expect, expect};
use isol8_core::{quantity::ByteSize, runtime::Runtime, sandbox::EngineKind};

use super::*;
use crate::native::interpreters::Mount;

struct Jail {
    key: SandboxKey,
    interpreter: Installed,
    layer: Option<PathBuf>,
    uid: Option<u32>,
    lasting: Option<Duration>,
}

impl Jail {
    fn new() -> Self {
        Self {
            key: SandboxKey {
                engine: EngineKind::Native,
                runtime: Runtime::Python,
                image: None,
                network: Network::None,
                writable: false,
                sandbox_size: ByteSize::mib(512),
                tmp_size: ByteSize::mib(256),
                layer: None,
            },
            interpreter: Installed {
                program: "/usr/bin/python3".into(),
                mounts: Vec::new(),
            },
            layer: None,
            uid: Some(200_000),
            lasting: None,
        }
    }

    fn lines(&self) -> String {
        let top = |name| Top::Folder { name };
        let rootfs = RootFs {
            tops: vec![
                top("usr"),
                Top::Link {
                    name: "bin",
                    target: "usr/bin".into(),
                },
            ],
            shown_etc: vec!["ssl/certs"],
            masked_files: vec!["keys"],
            masked_folders: vec!["acpi"],
        };
        let order = Order {
            bwrap: Path::new("/usr/bin/bwrap"),
            disable_userns: true,
            join: &["/cg/cgroup.procs".into()],
            uid: self.uid,
            stage: Path::new("/run/isol8/stage"),
            seccomp: Path::new("/state/seccomp.bpf"),
            kit: Path::new("/state/kit"),
            link: Path::new("/run/isol8/sb/1"),
            etc: Path::new("/state/etc"),
            rootfs: &rootfs,
            resolv_conf: Some(Path::new("/run/resolv.conf")),
            interpreter: &self.interpreter,
            layer: self.layer.as_deref(),
            key: &self.key,
            lasting: self.lasting,
        };
        let mut text = String::new();
        for word in order.arguments() {
            let word = word.into_string().unwrap();
            let breaks = word.starts_with("--") && !text.is_empty();
            text.push(if breaks { '\n' } else { ' ' });
            text.push_str(&word);
        }
        text + "\n"
    }

    /// What differs from an ordinary jail.
    fn check_difference(&self, expected: &Expect) {
        let plain = Self::new().lines();
        let own = self.lines();
        let missing = |from: &str, other: &str, mark: char| -> String {
            let lines: Vec<&str> = other.lines().collect();
            from.lines()
                .filter(|line| !lines.contains(line))
                .map(|line| format!("{mark}{line}\n"))
                .collect()
        };
        let text = missing(&plain, &own, '-') + &missing(&own, &plain, '+');
        expected.assert_eq(&text);
    }
}

#[test]
fn an_ordinary_jail() {
    expect![[r#"
         launch
        --join /cg/cgroup.procs
        --uid 200000
        --stage /run/isol8/stage
        --oom-score-adj 500
        --seccomp /state/seccomp.bpf
        --rlimit core 1
        --rlimit fsize 536875008
        --rlimit memlock 65536
        --rlimit msgqueue 0
        --rlimit nice 0
        --rlimit nofile 1024
        --rlimit rtprio 0
        --rlimit sigpending 1024
        --bind /usr root/usr
        --bind /state/etc root/etc
        --dir root/home
        --dir root/run
        --dir root/var
        --link ../tmp root/var/tmp
        --tmpfs 536870912 65536 0700 exec sandbox
        --link usr/bin root/bin
        --bind /etc/ssl/certs root/etc/ssl/certs
        --dir root/dev
        --dir root/proc
        --dir root/sandbox
        --dir root/tmp
        --bind /state/kit root/isol8/kit
        --bind /run/isol8/sb/1 root/isol8/link
        --tmpfs 268435456 32768 1777 noexec tmp
        --tmpfs 67108864 1024 1777 noexec shm
        --file empty
        --dir void
        -- /usr/bin/bwrap
        --unshare-all
        --unshare-user
        --disable-userns
        --uid 1000
        --gid 1000
        --hostname sandbox
        --as-pid-1
        --new-session
        --clearenv
        --cap-drop ALL
        --ro-bind /tmp/root /
        --proc /proc
        --dev /dev
        --bind /tmp/shm /dev/shm
        --remount-ro /dev
        --bind /tmp/sandbox /sandbox
        --bind /tmp/tmp /tmp
        --ro-bind /tmp/empty /proc/keys
        --ro-bind /tmp/void /proc/acpi
        --chdir /sandbox
        -- /isol8/kit/init /isol8/link/sock
    "#]]
    .assert_eq(&Jail::new().lines());
}

#[test]
fn an_interpreter_of_a_home_is_mounted_where_it_is() {
    let mut jail = Jail::new();
    jail.interpreter = Installed {
        program: "/root/.pyenv/versions/3.11.7/bin/python3".into(),
        mounts: vec![Mount {
            from: "/root/.pyenv/versions/3.11.7".into(),
            at: "/root/.pyenv/versions/3.11.7".into(),
        }],
    };
    jail.check_difference(&expect![[r#"
        +--bind /root/.pyenv/versions/3.11.7 root/root/.pyenv/versions/3.11.7
    "#]]);
}

#[test]
fn without_root_there_is_no_uid_to_become() {
    let mut jail = Jail::new();
    jail.uid = None;
    jail.check_difference(&expect![[r#"
        ---uid 200000
    "#]]);
}

#[test]
fn the_hosts_network_comes_with_its_resolver() {
    let mut jail = Jail::new();
    jail.key.network = Network::Host;
    jail.check_difference(&expect![[r#"
        +--bind /run/resolv.conf root/etc/resolv.conf
        +--share-net
    "#]]);
    jail.key.network = Network::Filtered;
    jail.check_difference(&expect![[r#"
        +--egress
    "#]]);
}

#[test]
fn a_layer_is_staged_over_the_sandbox() {
    let mut jail = Jail::new();
    jail.layer = Some("/state/layers/1/tree".into());
    jail.check_difference(&expect![[r#"
        +--bind /state/layers/1/tree sandbox/.local
    "#]]);
    jail.key.runtime = Runtime::Bun;
    jail.key.writable = true;
    let lines = jail.lines();
    assert!(lines.contains("\n--bind /state/layers/1/tree rw/sandbox/node_modules\n"));
}

#[test]
fn packages_of_the_system_lie_over_the_hosts() {
    let layer = tempfile::tempdir().unwrap();
    std::fs::create_dir(layer.path().join("usr")).unwrap();
    let mut jail = Jail::new();
    jail.key.runtime = Runtime::Bash;
    jail.layer = Some(layer.path().to_owned());
    let tree = layer.path().to_str().unwrap();
    let plain = format!("\n--lower {tree}/usr\n--lower /usr\n--merge root/usr\n");
    assert!(jail.lines().contains(&plain), "{}", jail.lines());
    assert!(!jail.lines().contains("--bind /usr "));
    jail.key.writable = true;
    let writable =
        format!("\n--lower {tree}/usr\n--lower /usr\n--overlay rw/upper/usr rw/work/usr");
    assert!(jail.lines().contains(&writable), "{}", jail.lines());
}

#[test]
fn a_writable_root_stays_inside_the_sandbox_size() {
    let mut jail = Jail::new();
    jail.key.writable = true;
    jail.check_difference(&expect![[r#"
        ---bind /usr root/usr
        ---bind /state/etc root/etc
        ---dir root/home
        ---dir root/run
        ---dir root/var
        ---link ../tmp root/var/tmp
        ---tmpfs 536870912 65536 0700 exec sandbox
        ---link usr/bin root/bin
        ---bind /etc/ssl/certs root/etc/ssl/certs
        ---dir root/dev
        ---dir root/proc
        ---dir root/sandbox
        ---dir root/tmp
        ---bind /state/kit root/isol8/kit
        ---bind /run/isol8/sb/1 root/isol8/link
        ---ro-bind /tmp/root /
        ---bind /tmp/sandbox /sandbox
        +--tmpfs 536870912 65536 0755 exec rw
        +--own rw/sandbox
        +--own rw/root
        +--own rw/upper/usr/local
        +--own rw/upper/usr/local/bin
        +--own rw/upper/usr/local/etc
        +--own rw/upper/usr/local/include
        +--own rw/upper/usr/local/lib
        +--own rw/upper/usr/local/sbin
        +--own rw/upper/usr/local/share
        +--lower /usr
        +--overlay rw/upper/usr rw/work/usr rw/root/usr
        +--copy /state/etc rw/root/etc
        +--own rw/root/home
        +--own rw/root/media
        +--own rw/root/mnt
        +--own rw/root/opt
        +--own rw/root/root
        +--own rw/root/run
        +--own rw/root/srv
        +--own rw/root/var
        +--own rw/root/var/cache
        +--own rw/root/var/lib
        +--own rw/root/var/log
        +--own rw/root/var/tmp
        +--link usr/bin rw/root/bin
        +--bind /etc/ssl/certs rw/root/etc/ssl/certs
        +--dir rw/root/dev
        +--dir rw/root/proc
        +--dir rw/root/sandbox
        +--dir rw/root/tmp
        +--bind /state/kit rw/root/isol8/kit
        +--bind /run/isol8/sb/1 rw/root/isol8/link
        +--bind /tmp/rw/root /
        +--ro-bind /tmp/rw/root/isol8 /isol8
        +--bind /tmp/rw/sandbox /sandbox
    "#]]);
}

#[test]
fn the_init_of_a_lasting_jail_is_told_for_how_long() {
    let mut jail = Jail::new();
    jail.lasting = Some(Duration::from_secs(3));
    jail.key.network = Network::Filtered;
    let end = "\n-- /isol8/kit/init /isol8/link/sock\n--egress\n--lasting\n--orphan-ms 3000\n";
    assert!(jail.lines().ends_with(end), "{}", jail.lines());
}

#[test]
fn inodes_follow_the_size() {
    let mut jail = Jail::new();
    jail.key.sandbox_size = ByteSize::bytes(4096);
    jail.check_difference(&expect![[r#"
        ---rlimit fsize 536875008
        ---tmpfs 536870912 65536 0700 exec sandbox
        +--rlimit fsize 268439552
        +--tmpfs 4096 1024 0700 exec sandbox
    "#]]);
}
