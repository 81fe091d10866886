//! Flags of the contract that this version does not carry out yet. Their values
//! are checked as they will be, so that a wrong one is wrong today; then they
//! are refused, never ignored.

use std::ffi::OsString;

use isol8_core::failure::{Failure, FailureKind};

use super::wrong;
use crate::args::RunArgs;

const LONGEST_SESSION_NAME: usize = 64;

/// Refuses what was asked for and is not there yet.
pub(super) fn check(args: &RunArgs, env: &dyn Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
    if let Some(name) = &args.session {
        session(name)?;
    }
    remote(args, env)?;
    let flags = [
        ("--host", args.host.is_some()),
        ("--session", args.session.is_some()),
        ("--persistent", args.persistent),
        ("--persist", args.persist),
    ];
    match flags.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(not_yet(flag)),
        None => Ok(()),
    }
}

/// The one way in which a feature to come is refused.
fn not_yet(what: &str) -> Failure {
    Failure::new(FailureKind::NotYet, format!("`{what}` is not there yet"))
        .hint("leave it out; a later version brings it")
}

fn session(name: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= LONGEST_SESSION_NAME && name.chars().all(plain) {
        return Ok(());
    }
    Err(wrong(format!("`{name}` is not a session name"))
        .cause("a name has up to 64 letters, digits, `.`, `_` or `-`")
        .hint("write it like `--session work`"))
}

fn remote(args: &RunArgs, env: &dyn Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
    let Some(host) = &args.host else {
        return match args.key {
            Some(_) => Err(wrong("`--key` does nothing without `--host`")
                .hint("add `--host https://…`, or leave the key out")),
            None => Ok(()),
        };
    };
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| host.strip_prefix(scheme));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err(wrong(format!("`{host}` is not the address of a server"))
            .hint("write it like `--host https://isol8.example.com:3000`"));
    }
    let key = args.key.as_ref().map(OsString::from);
    let key = key.or_else(|| env("ISOL8_API_KEY"));
    if key.is_none_or(|key| key.is_empty()) {
        return Err(
            wrong("API key required").hint("give it with `--key <key>`, or set ISOL8_API_KEY")
        );
    }
    Ok(())
}
