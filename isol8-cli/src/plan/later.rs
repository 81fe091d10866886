//! Flags of the contract that this version does not carry out yet. Their values
//! are checked as they will be, so that a wrong one is wrong today; then they
//! are refused, never ignored.

use std::ffi::OsString;

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::NetworkMode;
use regex::Regex;

use super::{network, wrong};
use crate::args::RunArgs;

const LONGEST_SESSION_NAME: usize = 64;

/// What the program may reach, if nothing was asked that is not there yet.
pub(super) fn check(
    args: &RunArgs,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<NetworkMode, Failure> {
    args.install.iter().try_for_each(|name| package(name))?;
    patterns("--allow", &args.allow)?;
    patterns("--deny", &args.deny)?;
    let network = match (network(args.net.as_deref())?, &args.net) {
        (_, None) if !args.install.is_empty() => NetworkMode::Filtered,
        (network, _) => network,
    };
    filtered_only(args, network)?;
    if let Some(name) = &args.session {
        session(name)?;
    }
    remote(args, env)?;
    let refused = if args.host.is_some() {
        "--host"
    } else if !args.install.is_empty() {
        "--install"
    } else if network == NetworkMode::Filtered {
        "--net filtered"
    } else if args.session.is_some() {
        "--session"
    } else if args.persistent {
        "--persistent"
    } else if args.persist {
        "--persist"
    } else {
        return Ok(network);
    };
    Err(not_yet(refused))
}

/// The one way in which a feature to come is refused.
pub(crate) fn not_yet(what: &str) -> Failure {
    Failure::new(FailureKind::NotYet, format!("`{what}` is not there yet"))
        .hint("leave it out; a later version brings it")
}

fn patterns(flag: &str, given: &[String]) -> Result<(), Failure> {
    for pattern in given {
        Regex::new(pattern).map_err(|error| {
            wrong(format!("`{flag}` with an invalid regular expression"))
                .cause(error.to_string())
                .hint(format!(
                    "a host is written like `{flag} '^api\\.example\\.com$'`"
                ))
        })?;
    }
    Ok(())
}

fn filtered_only(args: &RunArgs, network: NetworkMode) -> Result<(), Failure> {
    if network == NetworkMode::Filtered {
        return Ok(());
    }
    let flags = [
        ("--allow", !args.allow.is_empty()),
        ("--deny", !args.deny.is_empty()),
        ("--log-network", args.log_network),
    ];
    match flags.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(
            wrong(format!("`{flag}` does nothing without a filtered network"))
                .hint("add `--net filtered`"),
        ),
        None => Ok(()),
    }
}

/// Version specifiers, scopes and URLs are fine; options and shell syntax are not.
fn package(name: &str) -> Result<(), Failure> {
    let shell = |c: char| c.is_whitespace() || c.is_control() || ";|&$`(){}\\'\"".contains(c);
    if name.is_empty() || name.starts_with('-') || name.contains(shell) {
        return Err(wrong(format!("`{name}` is not a package name"))
            .hint("write it like `--install numpy` or `--install 'numpy>=2'`"));
    }
    Ok(())
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
