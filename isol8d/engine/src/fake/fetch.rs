//! What a fake sandbox has to be fetched: a folder with a file that tells which
//! errands were run, and whatever a script has placed.

use bytes::Bytes;
use isol8_proto::init::{Entry, EntryKind, Failed, FailureKind, Fetch, Fetched, from_init};

use super::init::{Gone, Init};

/// Where the command lines of all errands are, one a line.
const RECORD: &str = "record/errands";

/// What was left behind in the folder that is fetched.
#[derive(Debug, Default)]
pub(super) struct Leavings {
    errands: Vec<String>,
    placed: Vec<String>,
}

impl Leavings {
    /// An errand was run.
    pub(super) fn ran(&mut self, command_line: String) {
        self.errands.push(command_line);
    }

    /// A script placed a file, which holds its own name.
    pub(super) fn place(&mut self, name: &str) {
        if !self.placed.iter().any(|placed| placed == name) {
            self.placed.push(name.to_owned());
            self.placed.sort();
        }
    }

    fn files(&self) -> Vec<(String, String)> {
        let record = (RECORD.to_owned(), self.errands.join("\n") + "\n");
        let placed = self.placed.iter().map(|name| (name.clone(), name.clone()));
        [record].into_iter().chain(placed).collect()
    }

    fn is_empty(&self) -> bool {
        self.errands.is_empty() && self.placed.is_empty()
    }
}

fn entry(path: &str, kind: EntryKind, mode: u32, size: u64) -> from_init::Message {
    from_init::Message::Entry(Entry {
        path: path.to_owned().into(),
        kind: kind.into(),
        mode,
        size,
        ..Entry::default()
    })
}

impl Init {
    pub(super) async fn fetch(&self, order: &Fetch) -> Result<(), Gone> {
        let files = {
            let leavings = &self.inbox().leavings;
            if leavings.is_empty() {
                Vec::new()
            } else {
                leavings.files()
            }
        };
        let bytes = files.iter().map(|(_, content)| content.len() as u64).sum();
        let refused = if files.is_empty() {
            Some((FailureKind::BadPath, "there is nothing"))
        } else if bytes > order.max_bytes {
            Some((FailureKind::NoSpace, "the files are more than wanted"))
        } else {
            None
        };
        if let Some((kind, message)) = refused {
            let failed = Failed {
                kind: kind.into(),
                message: message.to_owned(),
                errno: 0,
                files: true,
            };
            return self.send(from_init::Message::Failed(failed)).await;
        }
        let folders = [entry("", EntryKind::Folder, 0o755, 0), {
            let (folder, _) = RECORD.split_once('/').unwrap_or((RECORD, ""));
            entry(folder, EntryKind::Folder, 0o755, 0)
        }];
        let entries = folders.len() + files.len();
        for folder in folders {
            self.send(folder).await?;
        }
        for (path, content) in files {
            let size = content.len() as u64;
            self.send(entry(&path, EntryKind::File, 0o644, size))
                .await?;
            self.data(content.as_bytes()).await?;
        }
        let entries = u32::try_from(entries).expect("a test places a few");
        let fetched = Fetched { bytes, entries };
        self.send(from_init::Message::Fetched(fetched)).await
    }

    async fn data(&self, mut rest: &[u8]) -> Result<(), Gone> {
        while !rest.is_empty() {
            let wanted = rest.len();
            let granted = self
                .wait(|inbox| {
                    let most = usize::try_from(inbox.data_credit).unwrap_or(usize::MAX);
                    let granted = wanted.min(most);
                    inbox.data_credit -= granted as u64;
                    (granted > 0).then_some(granted)
                })
                .await;
            let (now, later) = rest.split_at(granted);
            let data = from_init::Message::EntryData(Bytes::copy_from_slice(now));
            self.send(data).await?;
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use isol8_core::{
        ids::{DaemonId, SandboxId},
        quantity::{ByteSize, CpuMillis, Pids},
        runtime::Runtime,
        sandbox::{EngineKind, Limits, Network, SandboxKey, SandboxSpec},
    };
    use isol8_proto::init::{Command, Credit, Exec, to_init};

    use super::*;
    use crate::{Engine, Sandbox, fake::FakeEngine};

    fn spec() -> SandboxSpec {
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
            lasting: false,
        }
    }

    async fn send(sandbox: &mut Sandbox, message: to_init::Message) {
        sandbox.link.writer.send(message).await.unwrap();
    }

    async fn until_the_end(sandbox: &mut Sandbox) -> (String, from_init::Message) {
        let mut text = String::new();
        loop {
            match sandbox.link.reader.recv().await.unwrap() {
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

    #[tokio::test]
    async fn errands_do_as_the_test_says_and_leave_a_trace() {
        let engine = FakeEngine::new(EngineKind::Native, DaemonId::random());
        engine.errand("install", "out Collecting six\nplace six.py");
        engine.listening(true);
        let spec = spec();
        let mut sandbox = engine.create(&spec).await.unwrap();
        assert!(sandbox.listener.is_some() && engine.door_of(&spec.id).is_some());
        for line in ["pip install six", "pip check"] {
            let argv = line.split(' ').map(|word| word.to_owned().into());
            let exec = Exec {
                command: Some(Command {
                    argv: argv.collect(),
                    ..Command::default()
                }),
                stdout_credit: 100,
                ..Exec::default()
            };
            send(&mut sandbox, to_init::Message::Exec(exec)).await;
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
            max_bytes: 100,
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
}
