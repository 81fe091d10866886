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
