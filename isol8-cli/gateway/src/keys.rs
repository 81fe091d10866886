//! API keys: kept as digests, compared in constant time.

use std::{fmt, sync::Arc};

use data_encoding::HEXLOWER;
use isol8_core::config;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

/// Hex digits that stand for a key in the names of its sessions.
const OWNER_CHARS: usize = 16;

/// A key that opens the gateway. Its text is not kept.
#[derive(Clone)]
pub struct Key {
    name: String,
    digest: [u8; 32],
    owner: String,
    is_admin: bool,
    policy: config::Policy,
}

impl Key {
    /// A key with a name for logs. Who is `is_admin` may clean up, which touches
    /// sandboxes of others too.
    #[must_use]
    pub fn new(name: impl Into<String>, text: &str, is_admin: bool) -> Self {
        // Another digest than the one that is compared: names of sessions are
        // seen by others.
        let owner = Sha256::new()
            .chain_update(b"isol8 session owner\0")
            .chain_update(text)
            .finalize();
        let mut owner = HEXLOWER.encode(&owner);
        owner.truncate(OWNER_CHARS);
        Self {
            name: name.into(),
            digest: Sha256::digest(text).into(),
            owner,
            is_admin,
            policy: config::Policy::default(),
        }
    }

    /// The same with a ceiling of its own, below the gateway's.
    #[must_use]
    pub fn with_policy(self, policy: config::Policy) -> Self {
        Self { policy, ..self }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Every key of a gateway.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// The keys that open the gateway; without any it stays shut.
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    pub(crate) fn into_callers(self, runs: usize) -> Vec<Arc<Caller>> {
        let caller = |key| {
            Arc::new(Caller {
                key,
                runs: Arc::new(Semaphore::new(runs)),
            })
        };
        self.0.into_iter().map(caller).collect()
    }
}

/// A key in use.
#[derive(Debug)]
pub(crate) struct Caller {
    key: Key,
    /// What it may run at once.
    pub(crate) runs: Arc<Semaphore>,
}

impl Caller {
    pub(crate) fn name(&self) -> &str {
        &self.key.name
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.key.is_admin
    }

    /// What the key may ask for of what the gateway allows.
    pub(crate) fn policy(&self) -> &config::Policy {
        &self.key.policy
    }

    /// Stands for the key in the names of its sessions.
    pub(crate) fn owner(&self) -> &str {
        &self.key.owner
    }
}

/// Whose key this is. Every key is looked at, so that time tells nothing.
pub(crate) fn find<'a>(callers: &'a [Arc<Caller>], text: &str) -> Option<&'a Arc<Caller>> {
    let digest: [u8; 32] = Sha256::digest(text).into();
    let mut found = None;
    for caller in callers {
        if bool::from(caller.key.digest.ct_eq(&digest)) {
            found = Some(caller);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_opens() {
        let keys = Keys::new(vec![
            Key::new("a", "first", true),
            Key::new("b", "second", false),
        ]);
        let callers = keys.into_callers(1);
        let name = |text| find(&callers, text).map(|caller| caller.name().to_owned());
        assert_eq!(name("first").as_deref(), Some("a"));
        assert_eq!(name("second").as_deref(), Some("b"));
        for wrong in ["", "firs", "first ", "First", "third"] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
        assert!(find(&[], "").is_none());
    }

    #[test]
    fn sessions_do_not_tell_the_digest() {
        let key = Key::new("a", "first", true);
        assert_eq!(key.owner.len(), OWNER_CHARS);
        assert!(!HEXLOWER.encode(&key.digest).starts_with(&key.owner));
        assert_ne!(key.owner, Key::new("a", "second", true).owner);
        assert!(!format!("{key:?}").contains("digest"));
    }
}
