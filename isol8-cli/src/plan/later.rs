//! Flags of the contract that this version does not carry out yet. Their values
//! are checked as they will be, so that a wrong one is wrong today; then they
//! are refused, never ignored.

use std::ffi::OsString;

use isol8_core::failure::{Failure, FailureKind};

use super::wrong;
use crate::args::RunArgs;

/// Refuses what was asked for and is not there yet.
pub(super) fn check(args: &RunArgs, env: &dyn Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
    remote(args, env)?;
    match args.host {
        Some(_) => Err(not_yet("--host")),
        None => Ok(()),
    }
}

/// The one way in which a feature to come is refused.
fn not_yet(what: &str) -> Failure {
    Failure::new(FailureKind::NotYet, format!("`{what}` is not there yet"))
        .hint("leave it out; a later version brings it")
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
