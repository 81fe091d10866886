//! The beginning of what a program wrote.

/// Of each stream, so much is recorded.
const HEAD_BYTES: usize = 64 << 10;

/// The beginning of both streams of a run. By default it collects nothing.
#[derive(Debug, Default)]
pub struct Heads {
    /// Of stdout.
    pub stdout: Head,
    /// Of the program's stderr.
    pub stderr: Head,
}

/// The beginning of one stream, where somebody wants it.
#[derive(Debug, Default)]
pub struct Head(Option<Kept>);

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    /// There was more.
    pub(super) cut: bool,
}

impl Heads {
    pub(super) fn new(wanted: bool) -> Self {
        let head = || Head(wanted.then(Kept::default));
        Self {
            stdout: head(),
            stderr: head(),
        }
    }
}

impl Head {
    /// Takes what leaves for the client: masked and capped already.
    pub fn push(&mut self, bytes: &[u8]) {
        let Some(kept) = &mut self.0 else { return };
        let room = HEAD_BYTES - kept.bytes.len();
        let fits = bytes.len().min(room);
        kept.bytes.extend_from_slice(&bytes[..fits]);
        kept.cut |= fits < bytes.len();
    }

    pub(super) fn kept(&self) -> Option<&Kept> {
        self.0.as_ref()
    }
}
