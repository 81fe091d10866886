//! An internet of a test's own, in a network namespace of its own.
//!
//! Every address there is, public, private or a metadata service's, is this
//! machine's: the one origin answers at all of them. A filter that lets a
//! request slip is therefore seen, whatever address it slipped to; and nothing
//! of the test can leave the machine.
//!
//! ```text
//!  the test's thread: own network namespace (loopback is the way to every
//!  address), own mount namespace (/etc/resolv.conf names the resolver)
//!    ├─ origin      every address, ports 80, 443 and some that are refused
//!    ├─ resolver    every address, port 53
//!    └─ daemon ─▶ its egress process, sandboxes
//! ```

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    authority::Authority,
    host,
    origin::Origin,
    resolver::{Resolver, Zone},
    stage::{Engine, Stage},
};

/// Where the origin listens. All but the first three are refused by the
/// configuration of [`Internet::config`].
const PORTS: [u16; 9] = [80, 443, 8081, 22, 25, 853, 2375, 3128, 8443];

/// An allowed port where nobody listens.
pub const DEAD_PORT: u16 = 8080;

/// A public address. Anybody's.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// The namespace and what answers in it.
#[derive(Debug)]
pub struct Internet {
    /// Answers HTTP and HTTPS.
    pub origin: Origin,
    /// Answers DNS.
    pub resolver: Resolver,
    folder: TempDir,
}

impl Internet {
    /// Moves the calling thread, and what it starts from now on, into an
    /// internet of its own. There is no way back: a test enters once.
    ///
    /// # Panics
    /// Without root, or without iproute2.
    #[must_use]
    #[track_caller]
    pub fn enter() -> Self {
        let folder = tempfile::Builder::new().prefix("e2e-internet-").tempdir();
        let folder = folder.expect("/tmp takes a folder");
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("this test needs root");
        // Copies of the host's mounts: what is mounted over stays here.
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, private, nothing).expect("root may");
        for (name, content) in [
            (
                "resolv.conf",
                "nameserver 127.0.0.1\nsearch .\noptions timeout:2 attempts:2\n",
            ),
            // No other source of names, as some hosts have.
            ("nsswitch.conf", "hosts: files dns\n"),
            ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ] {
            replace(folder.path(), name, content);
        }
        for words in [
            "link set lo up",
            "route add local 0.0.0.0/0 dev lo",
            "-6 route add local ::/0 dev lo",
        ] {
            let args: Vec<&str> = words.split(' ').collect();
            drop(host::tool("ip", &args));
        }
        let authority = Authority::new();
        let mut bundle = authority.pem();
        if let Ok(path) = std::env::var("ISOL8_TEST_CA_BUNDLE") {
            bundle += &fs::read_to_string(path).expect("the bundle is readable");
        }
        fs::write(folder.path().join("bundle.pem"), bundle).expect("the folder is ours");
        let everywhere = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let places: Vec<SocketAddr> = PORTS.into_iter().map(everywhere).collect();
        let origin = Origin::listen(&places, &authority).expect("the ports are free");
        let resolver = Resolver::listen(everywhere(53)).expect("the port is free");
        let internet = Self {
            origin,
            resolver,
            folder,
        };
        internet.name("example.com", PUBLIC);
        internet
    }

    /// Gives a name one IPv4 address.
    pub fn name(&self, name: &str, address: Ipv4Addr) {
        let zone = Zone::Fixed(vec![IpAddr::V4(address)]);
        self.resolver.set(name, zone);
    }

    /// The bundle that holds the authority of this internet.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle.pem")
    }

    /// The part `network` of a configuration for daemons in here, with `more`
    /// in it.
    ///
    /// # Panics
    /// When `more` is no object.
    #[must_use]
    pub fn config(&self, more: &Value) -> Value {
        let mut network = json!({
            "caBundle": self.bundle(),
            "ports": [80, 443, 8081, DEAD_PORT],
        });
        for (key, value) in more.as_object().expect("an object") {
            network[key] = value.clone();
        }
        json!({"network": network})
    }

    /// Runs a test on a stage in an internet of its own, with `more` in the
    /// part `network` of its configuration.
    ///
    /// # Panics
    /// As the test does.
    pub fn with(engine: Engine, more: &Value, test: impl FnOnce(&Stage, &Self) + Send) {
        let run = || {
            let internet = Arc::new(Self::enter());
            let config = internet.config(more);
            Stage::with_config(engine, config, |stage| test(stage, &internet));
        };
        // On a thread of its own: there is no way back out of its namespaces,
        // and the caller's thread may have other tests to run.
        let ended = thread::scope(|scope| scope.spawn(run).join());
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
    }
}

fn replace(folder: &Path, name: &str, content: &str) {
    let (ours, theirs) = (folder.join(name), Path::new("/etc").join(name));
    fs::write(&ours, content).expect("the folder is ours");
    if theirs.exists() {
        let nothing = None::<&str>;
        mount(Some(&ours), &theirs, nothing, MsFlags::MS_BIND, nothing).expect("root may");
    }
}
