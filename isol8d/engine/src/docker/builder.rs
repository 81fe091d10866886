//! What the engine's builder is asked to make, and what it says meanwhile.
//!
//! It is the classic builder: every engine has it, and when the connection of a
//! request ends it stops what it was doing.

use std::collections::{HashMap, VecDeque};

use bollard::query_parameters::{BuildImageOptions, BuildImageOptionsBuilder};
use data_encoding::HEXLOWER;
use isol8_core::{failure::Failure, sandbox::Limits};
use sha2::{Digest, Sha256};

use super::{Inner, client::Asked, pull};
use crate::Progress;

/// Lines of a failed build that go into the failure.
const LAST_LINES: usize = 20;
/// How a line begins with which the builder starts a step.
const STEP: &str = "Step ";
/// The other lines about its own work.
const BUILDERS_OWN: [&str; 3] = [
    " ---> ",
    "Removing intermediate container ",
    "Successfully ",
];
/// The length of one turn in which a build has its share of the processors.
const CPU_PERIOD_US: i32 = 100_000;
/// The least share that the kernel takes.
const LEAST_QUOTA_US: i32 = 1000;

/// One image to be made.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// The name that it gets.
    pub(super) tag: &'a str,
    /// The context. One is called `Dockerfile`.
    pub(super) files: &'a [(&'a str, &'a [u8])],
    /// The stage to stop at; empty is the last.
    pub(super) target: &'a str,
    /// Build arguments. They reach the scripts of the build and stay readable in
    /// the image's history, so a secret has no place here.
    pub(super) arguments: HashMap<String, String>,
    pub(super) labels: HashMap<String, String>,
    /// Whether every step is done again.
    pub(super) nocache: bool,
    /// `None`: whatever the engine has.
    pub(super) terms: Option<Terms>,
}

/// What each step of a build may use. The builder knows no limit of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    memory_bytes: i32,
    quota_us: i32,
    /// The engine's default network, or none.
    online: bool,
}

/// A build that did not make its image.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) failure: Failure,
    /// The engine says so itself; otherwise it is not known to have stopped.
    pub(super) answered: bool,
    /// What its last step said last.
    pub(super) lines: Vec<String>,
}

impl Terms {
    /// `limits` on an engine with `cores`. More memory than 2 GiB cannot be said
    /// to a builder through its API's types; a build then gets just below that.
    pub(super) fn of(limits: &Limits, cores: u32, online: bool) -> Self {
        let most = cores.max(1).saturating_mul(1000);
        let millis = limits.cpu.as_millis().min(most);
        let quota = i32::try_from(millis).unwrap_or(i32::MAX);
        Self {
            memory_bytes: i32::try_from(limits.memory.as_bytes()).unwrap_or(i32::MAX),
            quota_us: quota
                .saturating_mul(CPU_PERIOD_US / 1000)
                .max(LEAST_QUOTA_US),
            online,
        }
    }
}

impl Order<'_> {
    fn options(&self) -> BuildImageOptions {
        let options = BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .t(self.tag)
            .target(self.target)
            .buildargs(&self.arguments)
            .labels(&self.labels)
            .nocache(self.nocache)
            .rm(true)
            .forcerm(true);
        let Some(terms) = self.terms else {
            return options.build();
        };
        let options = options
            .memory(terms.memory_bytes)
            .memswap(terms.memory_bytes)
            .cpuperiod(CPU_PERIOD_US)
            .cpuquota(terms.quota_us);
        if terms.online {
            options.build()
        } else {
            options.networkmode("none").build()
        }
    }

    fn context(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, *content)
                .expect("a vector takes every byte");
        }
        archive.into_inner().expect("a vector takes every byte")
    }
}

impl Inner {
    /// Has an image made, and tells each line that the build says.
    ///
    /// # Cancellation
    /// A dropped future closes the connection, and the builder kills the step
    /// that it is at. What earlier steps made stays in the engine's cache.
    pub(super) async fn order(
        &self,
        order: &Order<'_>,
        progress: Progress<'_>,
    ) -> Result<(), Broken> {
        const CALL: &str = "build an image";
        let mut lines = Lines::default();
        let result = match self.client.docker(CALL) {
            Err(asked) => Err(asked),
            Ok(docker) => {
                let body = bollard::body_full(order.context().into());
                let stream = docker.build_image(order.options(), None, Some(body));
                pull::follow(&self.client, CALL, stream, |info| {
                    if let Some(error) = info.error_detail.and_then(|detail| detail.message) {
                        return Err(bollard::errors::Error::DockerStreamError { error });
                    }
                    lines.push(info.stream.as_deref().unwrap_or_default(), progress);
                    Ok(())
                })
                .await
            }
        };
        lines.push("\n", progress);
        result.map_err(|asked: Asked| Broken {
            answered: asked.is_answer(),
            failure: asked.into(),
            lines: lines.last.into(),
        })
    }
}

/// A hash of parts, each with its length, so that no two lists of parts look the
/// same.
pub(super) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    HEXLOWER.encode(&hash.finalize())
}

/// Makes lines of the pieces of a build's output and keeps the last.
#[derive(Debug, Default)]
struct Lines {
    open: String,
    last: VecDeque<String>,
}

impl Lines {
    fn push(&mut self, piece: &str, progress: Progress<'_>) {
        self.open.push_str(piece);
        while let Some((line, rest)) = self.open.split_once('\n') {
            let line = printable(line);
            self.open = rest.to_owned();
            if line.is_empty() {
                continue;
            }
            progress(&line);
            if line.starts_with(STEP) {
                self.last.clear();
            }
            if is_builders_own(&line) {
                continue;
            }
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }
}

/// Whether the builder speaks of its own work, not a program that it runs.
pub(super) fn is_builders_own(line: &str) -> bool {
    let mut own = BUILDERS_OWN.iter().chain([&STEP]);
    own.any(|start| line.starts_with(start))
}

/// What a terminal would show at the end of a line, without escapes: package
/// scripts print what they like, and it goes to a person's terminal.
fn printable(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let mut pieces = line.split('\u{1b}');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // A sequence such as a colour ends with its first letter.
        let is_sequence = piece.starts_with('[');
        let end = piece.find(|c: char| c.is_ascii_alphabetic());
        plain.push_str(match end {
            Some(end) if is_sequence => &piece[end + 1..],
            _ => piece,
        });
    }
    let shown = plain.rsplit('\r').next().unwrap_or_default();
    let shown: String = shown.chars().filter(|c| !c.is_control()).collect();
    shown.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read, sync::Mutex};

    use isol8_core::quantity::{ByteSize, CpuMillis, Pids};

    use super::*;

    fn order() -> Order<'static> {
        Order {
            tag: "isol8:bash",
            files: &[("Dockerfile", b"FROM x"), ("empty", b"")],
            target: "",
            arguments: HashMap::new(),
            labels: HashMap::new(),
            nocache: false,
            terms: None,
        }
    }

    #[test]
    fn the_context_holds_the_files() {
        let context = order().context();
        let mut archive = tar::Archive::new(context.as_slice());
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.insert(name, text);
        }
        let expected = [("Dockerfile", "FROM x"), ("empty", "")];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(files, BTreeMap::from(expected));
    }

    #[test]
    fn limits_become_the_builders_own() {
        let bounds = |memory, cpu: &str| {
            let limits = Limits {
                memory: ByteSize::mib(memory),
                cpu: cpu.parse::<CpuMillis>().unwrap(),
                pids: Pids::new(64).unwrap(),
            };
            let order = Order {
                terms: Some(Terms::of(&limits, 2, cpu == "1")),
                ..order()
            };
            let options = order.options();
            assert_eq!(options.memory, options.memswap, "no swap");
            let offline = options.networkmode.as_deref() == Some("none");
            assert_eq!(offline, cpu != "1");
            (options.memory.unwrap(), options.cpuquota.unwrap())
        };
        assert_eq!(bounds(512, "1"), (512 << 20, 100_000));
        assert_eq!(bounds(512, "0.01"), (512 << 20, 1000));
        // More cores than there are is all of them.
        assert_eq!(bounds(8192, "64"), (i32::MAX, 200_000));
        assert_eq!(order().options().memory, None);
        assert_eq!(order().options().networkmode, None, "the engine's own");
    }

    #[test]
    fn lists_of_parts_that_join_to_the_same_text_differ() {
        let hash = |parts: &[&str]| fingerprint(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
        assert_eq!(hash(&["ab"]).len(), 64);
        let different = [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""]];
        let hashes: Vec<String> = different.iter().map(|parts| hash(parts)).collect();
        for (at, one) in hashes.iter().enumerate() {
            assert!(!hashes[at + 1..].contains(one), "{:?}", different[at]);
        }
    }

    #[test]
    fn pieces_become_lines_without_escapes() {
        let seen = Mutex::new(Vec::new());
        let progress = |line: &str| seen.lock().unwrap().push(line.to_owned());
        let mut lines = Lines::default();
        for piece in [
            "Get:",
            "1\n\n",
            "10%\r100%\r\n\u{1b}[91mred\n\u{1b}[0m",
            "tail\n\u{1b}x",
        ] {
            lines.push(piece, &progress);
        }
        lines.push("\n", &progress);
        let expected = ["Get:1", "100%", "red", "tail", "x"];
        assert_eq!(*seen.lock().unwrap(), expected);
        assert_eq!(lines.last, expected);
        for n in 0..50 {
            lines.push(&format!("{n}\n"), &progress);
        }
        assert_eq!(lines.last.len(), LAST_LINES);
        assert_eq!(lines.last.back().unwrap(), "49");
    }

    #[test]
    fn what_the_last_step_said_is_kept() {
        let mut lines = Lines::default();
        let said = "Step 1/2 : RUN a\nfrom a\n ---> 0123\nStep 2/2 : RUN b\n ---> Running in 1\n\
                    \u{1b}[91mfrom b\n\u{1b}[0mRemoving intermediate container 1\n";
        lines.push(said, &|_| ());
        assert_eq!(lines.last, ["from b"]);
    }
}
