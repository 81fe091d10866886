//! What a session of the HTTP API is called by the daemon: all keys are one user
//! to it, so the key is a part of the name. Another key asks for another name, and
//! hears that there is no such session.

use std::fmt;

use isol8_core::{ids::RunId, session::SessionName};

use crate::{keys::Caller, refusal::Refusal};

/// The longest id: with the key's part it is just a name for the daemon.
const MAX_CHARS: usize = 46;

/// What a session is called by the one whose key made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionId(String);

impl SessionId {
    /// Takes 1 to 46 letters, digits and `._-`.
    ///
    /// # Errors
    /// 400 names the field.
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, Refusal> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if (1..=MAX_CHARS).contains(&text.len()) && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(Refusal::invalid(format!(
            "`{field}`: `{}` is not an id; use 1 to {MAX_CHARS} letters, digits and `._-`",
            text.escape_debug()
        )))
    }

    /// What the daemon calls it.
    pub(crate) fn name(&self, caller: &Caller) -> String {
        let name = format!("{}{}", prefix(caller), self.0);
        debug_assert!(SessionName::parse(&name).is_ok(), "{name}");
        name
    }

    /// What a caller hears, in the caller's own words.
    pub(crate) fn told(refusal: Refusal, caller: &Caller) -> Refusal {
        refusal.without(&prefix(caller))
    }

    /// The id behind a name of the daemon's; `None` for a session of somebody
    /// else.
    pub(crate) fn of_name(name: &str, caller: &Caller) -> Option<Self> {
        let id = name.strip_prefix(&prefix(caller))?;
        Some(Self(id.to_owned()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the names of a caller's sessions begin with.
pub(crate) fn prefix(caller: &Caller) -> String {
    format!("h{}.", caller.owner())
}

/// Whether a session of this name is the caller's, also one without an id.
pub(crate) fn is_of(name: &str, caller: &Caller) -> bool {
    let owned = name.strip_prefix(['h', 't']);
    let owned = owned.and_then(|name| name.strip_prefix(caller.owner()));
    owned.is_some_and(|id| id.starts_with('.'))
}

/// A name that no id leads to, and that nobody guesses.
pub(super) fn temporary(caller: &Caller) -> String {
    format!("t{}.{}", caller.owner(), RunId::random())
}
