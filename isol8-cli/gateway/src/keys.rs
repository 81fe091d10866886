//! API keys: kept as digests, compared in constant time.
//!
//! A [`Key`] opens the gateway; [`Keys`] are all of them, and can be replaced while
//! it serves. They come from the command line, from a [`file`], and from a
//! database ([`store`]) that `isol8 key` writes; [`keeper`] puts them together and
//! looks for changes.

mod file;
mod keeper;
mod name;
mod ring;
mod store;

use std::fmt;

use data_encoding::HEXLOWER;
use isol8_core::config;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

pub use keeper::{Keeper, Sources};
pub use name::{KeyName, WrongName};
pub use ring::Keys;
pub(crate) use ring::{Caller, revoked};
pub use store::{NewKey, Rotation, Store, Stored};

/// Hex digits that stand for a key in the names of its sessions.
const OWNER_CHARS: usize = 16;

/// SHA-256 of a key's text.
type Digest = [u8; 32];

fn digest_of(text: &str) -> Digest {
    Sha256::digest(text).into()
}

/// Stands for a key in the names of its sessions. Of two keys with the same one,
/// each has the sessions of the other.
fn owner_of(domain: &[u8], text: &str) -> String {
    // Another digest than the one that is compared: names of sessions are seen by
    // others.
    let owner = Sha256::new().chain_update(domain).chain_update(text);
    let mut owner = HEXLOWER.encode(&owner.finalize());
    owner.truncate(OWNER_CHARS);
    owner
}

/// A key that opens the gateway. Its text is not kept.
#[derive(Clone, PartialEq)]
pub struct Key {
    name: String,
    digest: Digest,
    owner: String,
    is_admin: bool,
    policy: config::Policy,
    /// From then on it opens nothing.
    expires: Option<Timestamp>,
}

impl Key {
    /// A key with a name for logs; its sessions belong to the text. Who is
    /// `is_admin` may clean up, which touches sandboxes of others too.
    #[must_use]
    pub fn new(name: impl Into<String>, text: &str, is_admin: bool) -> Self {
        let owner = owner_of(b"isol8 session owner\0", text);
        Self {
            is_admin,
            ..Self::of_digest(name.into(), digest_of(text), owner)
        }
    }

    fn of_digest(name: String, digest: Digest, owner: String) -> Self {
        Self {
            name,
            digest,
            owner,
            is_admin: false,
            policy: config::Policy::default(),
            expires: None,
        }
    }

    /// The same with a ceiling of its own, below the gateway's.
    #[must_use]
    pub fn with_policy(self, policy: config::Policy) -> Self {
        Self { policy, ..self }
    }

    /// The same until then, and not a moment longer.
    #[must_use]
    pub fn until(self, expires: Timestamp) -> Self {
        Self {
            expires: Some(expires),
            ..self
        }
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_do_not_tell_the_digest() {
        let key = Key::new("a", "first", true);
        assert_eq!(key.owner.len(), OWNER_CHARS);
        assert!(!HEXLOWER.encode(&key.digest).starts_with(&key.owner));
        assert_ne!(key.owner, Key::new("a", "second", true).owner);
        assert!(!format!("{key:?}").contains("digest"));
    }
}
