//! The beginning of what a program wrote.

/// Of each stream, so much is recorded.
const HEAD_BYTES: usize = 64 << 10;

/// The beginning of stdout and of stderr. Collects nothing where nobody wants
/// it.
#[derive(Debug, Default)]
pub struct Heads(Option<Box<Both>>);

#[derive(Debug, Default)]
pub(super) struct Both {
    pub(super) stdout: Head,
    pub(super) stderr: Head,
}

#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    /// There was more.
    pub(super) cut: bool,
}

impl Heads {
    pub(super) fn new(wanted: bool) -> Self {
        Self(wanted.then(Box::default))
    }

    pub(super) fn both(&self) -> Option<&Both> {
        self.0.as_deref()
    }

    /// Takes what leaves for the client as stdout: already masked.
    pub fn stdout(&mut self, bytes: &[u8]) {
        if let Some(both) = &mut self.0 {
            both.stdout.push(bytes);
        }
    }

    /// Takes what leaves for the client as stderr of the program.
    pub fn stderr(&mut self, bytes: &[u8]) {
        if let Some(both) = &mut self.0 {
            both.stderr.push(bytes);
        }
    }
}

impl Head {
    fn push(&mut self, bytes: &[u8]) {
        let room = HEAD_BYTES - self.bytes.len();
        let fits = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..fits]);
        self.cut |= fits < bytes.len();
    }
}
