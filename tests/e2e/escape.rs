//! Ways out of a sandbox. Every call fails, the host's canary stays unread, the
//! host's binaries stay as they are.

use std::{fs, path::Path, process::Command};

use isol8_e2e::harness::{
    host,
    stage::Stage,
    wait::{seconds, wait_for},
};
use serde_json::Value;

const ESCAPE: &str = include_str!("programs/escape.py");

/// A file of the host that no program may read or change.
struct Canary {
    path: &'static Path,
    content: String,
}

impl Canary {
    fn place() -> Self {
        let path = Path::new("/root/isol8-canary");
        let content = "the canary of isol8's tests\n".to_owned();
        if rustix::process::geteuid().is_root() {
            fs::write(path, &content).expect("root writes where it likes");
        }
        Self { path, content }
    }

    #[track_caller]
    fn assert_untouched(&self, output: &str) {
        assert!(!output.contains(self.content.trim()), "the canary was read");
        if rustix::process::geteuid().is_root() {
            let now = fs::read_to_string(self.path).expect("the canary is there");
            assert_eq!(now, self.content, "the canary was changed");
        }
    }
}

/// Digests of the host's binaries that take part in making sandboxes.
fn binaries(stage: &Stage) -> String {
    let own = ["isol8d", "isol8-init"].map(|name| stage.binary(name).get_program().to_owned());
    let tools = ["runc", "bwrap", "containerd-shim-runc-v2"].map(|name| {
        ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
            .map(|folder| Path::new(folder).join(name))
            .into_iter()
            .find(|path| path.exists())
    });
    let mut command = Command::new("sha256sum");
    command.args(own).args(tools.into_iter().flatten());
    String::from_utf8(command.output().expect("sha256sum is there").stdout).expect("text")
}

#[track_caller]
fn all_are(seen: &Value, group: &str, allowed: &[&str]) {
    let results = seen[group].as_object().expect("an object");
    assert!(!results.is_empty());
    let passed: Vec<_> = results
        .iter()
        .filter(|(_, result)| !allowed.contains(&result.as_str().unwrap_or_default()))
        .collect();
    assert!(passed.is_empty(), "{group}: {passed:?}");
}

both_engines! {
    /// ES01 to ES11, ES13, ES15, ES16 in one program.
    fn no_system_call_leads_out(stage: &Stage) {
        let canary = Canary::place();
        let before = binaries(stage);
        let ran = stage.python(ESCAPE).args(["--timeout", "60000"]).go();
        ran.ok();
        let seen = ran.json();
        let mut seen = seen;
        if stage.engine() == Engine::Docker {
            // Newer than the engine's libseccomp: its runtime calls them absent.
            for name in ["statmount", "listmount"] {
                let newer = seen["denied"].as_object_mut().expect("an object").remove(name);
                let result = newer.as_ref().and_then(Value::as_str).unwrap_or("none");
                assert!(["EPERM", "ENOSYS"].contains(&result), "{name}: {result}");
            }
        }
        all_are(&seen, "denied", &["EPERM"]);
        all_are(&seen, "absent", &["ENOSYS"]);
        all_are(&seen, "sockets", &["EPERM"]);
        all_are(&seen, "identity", &["EPERM", "EINVAL"]);
        if let Some(int80) = seen["int80"].as_str() {
            assert_eq!((int80, &seen["x32"]), ("signal 31", &Value::from("signal 31")), "SIGSYS");
        }
        // ENODATA: the engine put an empty file or folder in its place.
        let refusals = ["EPERM", "EACCES", "EROFS", "ENOENT", "ENOTDIR", "EISDIR", "ENODATA", "EIO", "ENXIO"];
        all_are(&seen, "files", &refusals);
        // Docker 20.10 shows this one; newer engines mask it.
        if stage.engine() == Engine::Native {
            assert_ne!(seen["interrupts"], "OK");
            assert_eq!(seen["powercap"], false);
        }
        assert_eq!(seen["setuid copy"], true, "{seen:#}");
        assert_eq!(seen["setuid files gain"], serde_json::json!([]));
        for (name, allowed) in [
            ("write exe", &["EACCES", "ENOENT", "EPERM", "EROFS", "ETXTBSY"][..]),
            ("fd paths", &["ENOENT", "EACCES", "ENOTDIR", "EPERM"]),
            ("canary", &["EACCES", "ENOENT", "EPERM", "EBADF", "ENOTDIR"]),
        ] {
            let results = seen[name].as_array().expect("a list");
            for result in results {
                assert!(allowed.contains(&result.as_str().unwrap_or_default()), "{name}: {results:?}");
            }
        }
        canary.assert_untouched(&ran.out());
        assert_eq!(binaries(stage), before, "a binary of the host changed");
    }

    /// ES01, ES16 with the tools that people use.
    fn usual_tools_do_not_lead_out(stage: &Stage) {
        let canary = Canary::place();
        let code = "exec 2>&1\n\
            unshare -Urm true && echo OUT unshare\n\
            unshare -r id && echo OUT userns\n\
            nsenter -t 1 -m true && echo OUT nsenter\n\
            chroot / true && echo OUT chroot\n\
            mount -t tmpfs x /tmp && echo OUT mount\n\
            mount -t cgroup -o rdma x /tmp && echo OUT cgroup\n\
            mount -o remount,rw / && echo OUT remount\n\
            umount /sandbox && echo OUT umount\n\
            mkdir /tmp/c; mount -t proc x /tmp/c && echo OUT proc\n\
            sudo -n true && echo OUT sudo\n\
            su -c true </dev/null && echo OUT su\n\
            cat /root/isol8-canary\n\
            cat /proc/1/root/root/isol8-canary\n\
            find / -name isol8-canary -not -path '/proc/*' 2>/dev/null\n\
            echo '|/x' > /proc/sys/kernel/core_pattern && echo OUT core_pattern\n\
            echo c > /proc/sysrq-trigger && echo OUT sysrq\n\
            for f in /sys/fs/cgroup/*/release_agent; do echo /x > $f && echo OUT $f; done\n\
            ln -s /proc/self/fd/8 /sandbox/w; cd /sandbox/w && echo OUT fd\n\
            dmesg | head -1 | grep -q . && echo OUT dmesg\n\
            hostname other && echo OUT hostname\n\
            echo end";
        let ran = stage.bash(code).go();
        let out = ran.ok();
        assert!(out.ends_with("end\n") && !out.contains("OUT"), "{out}");
        assert!(!out.lines().any(|line| line.ends_with("/isol8-canary")), "{out}");
        canary.assert_untouched(&out);
    }

    /// ES12: devices cannot be swapped under the feet of what starts next.
    fn devices_cannot_be_swapped(stage: &Stage) {
        let code = "import errno, os\n\
            def go(f, *a):\n \
             try: f(*a); return 'OK'\n \
             except OSError as e: return errno.errorcode[e.errno]\n\
            print(go(os.unlink, '/dev/null'), go(os.rename, '/dev/null', '/dev/x'),\n  \
             go(os.symlink, '/proc/sys/kernel/core_pattern', '/dev/y'), go(os.mkdir, '/dev/d'),\n  \
             go(os.symlink, '/', '/isol8/kit/x'), go(os.rename, '/isol8', '/x'), go(os.chmod, '/dev/null', 0))";
        let ran = stage.python(code).go();
        let out = ran.ok();
        assert!(!out.contains("OK"), "{out}");
    }

    /// ES07: another process of the same sandbox is no secret, another sandbox
    /// and its PID 1 are.
    fn programs_cannot_trace_their_init(stage: &Stage) {
        let mark = &stage.mark(70_007);
        let live = stage.bash(&format!("sleep {mark}")).start();
        let process = wait_for("the program", seconds(20), || host::sleepers(mark).pop());
        // From the host: above the shell is init, with the same uid and no
        // capability, and its /proc files are root's because it cannot be dumped.
        let above = |process: &host::Process| {
            let parent = process.status("PPid");
            let mut all = host::processes().into_iter();
            all.find(|other| other.pid.as_raw_nonzero().to_string() == parent)
        };
        let mut init = above(&process).expect("a parent");
        while init.status("NSpid").split_whitespace().last() != Some("1") {
            init = above(&init).expect("PID 1 of the sandbox is above");
        }
        assert_eq!(init.uid(), process.uid());
        for field in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(init.status(field), "0000000000000000", "{field} of init");
        }
        assert_eq!(init.status("Seccomp"), "2");
        let environ = format!("/proc/{}/environ", init.pid.as_raw_nonzero());
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(environ).expect("it lives"));
        assert_eq!(owner, 0, "init can be dumped");
        let seen = "import os\nprint(sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[0:3], os.getppid())";
        let ran = stage.python(seen).go();
        assert!(ran.ok().ends_with("] 1\n"), "{ran:?}");
        drop(live);
    }
}
