//! Names of things that live: runs, sandboxes, daemons, callers.

use std::fmt;

use data_encoding::HEXLOWER;

/// Random bits of an id: enough that nobody guesses one.
const ID_BYTES: usize = 16;

fn random_hex(bytes: usize) -> String {
    let mut buffer = [0_u8; ID_BYTES];
    let part = &mut buffer[..bytes];
    getrandom::fill(part).expect("the kernel's random source answers");
    HEXLOWER.encode(part)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Draws a new one from the kernel's random source.
            #[must_use]
            pub fn random() -> Self {
                Self(random_hex($bytes))
            }

            /// Takes back an id that was written out before. `None` unless it is
            /// lower-case hex of the right length.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let right = text.len() == $bytes * 2 && text.bytes().all(hex);
                right.then(|| Self(text.to_owned()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// One execution.
    RunId,
    16
);
id!(
    /// One container or jail. Unguessable: it names the folder of its socket.
    SandboxId,
    16
);
id!(
    /// One state folder: a daemon that restarts on it knows its own sandboxes.
    DaemonId,
    8
);

/// For whom a caller asks, such as one of many keys. Says nothing about rights.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Lane(String);

impl Lane {
    /// The longest one in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Takes letters, digits and `._-`, also none; `None` for everything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = text.len() <= Self::MAX_BYTES && text.bytes().all(allowed);
        fits.then(|| Self(text.to_owned()))
    }
}

/// Who asked: the host uid that the kernel reports for the socket's peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(pub u32);
