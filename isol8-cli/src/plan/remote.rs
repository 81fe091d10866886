//! Where the run takes place with `--host`, and the key that opens it.

use std::{ffi::OsString, path::PathBuf};

use isol8_core::{config::search::Trust, failure::Failure};

use super::{World, wrong};
use crate::{
    args::RunArgs,
    remote::{Address, Key, Remote},
};

/// Where the key is, if it is not typed.
const KEY: &str = "ISOL8_API_KEY";

/// The gateway that the run goes to; `None` for the daemon of this machine.
pub(super) fn remote(args: &RunArgs, world: &World<'_>) -> Result<Option<Remote>, Failure> {
    let Some(host) = &args.host else {
        return match args.key {
            Some(_) => Err(wrong("`--key` does nothing without `--host`")
                .hint("add `--host https://…`, or leave the key out")),
            None => Ok(None),
        };
    };
    let address = Address::parse(host).ok_or_else(|| {
        // What stands before an `@` may be a password.
        let shown = host.rsplit('@').next().unwrap_or_default();
        let shown = shown.split(['?', '#']).next().unwrap_or_default();
        wrong(format!("`{shown}` is not the address of a server"))
            .hint("write it like `--host https://isol8.example.com:3000`")
    })?;
    let key = args.key.as_ref().map(OsString::from);
    let key = key
        .or_else(|| (world.env)(KEY))
        .filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| {
        wrong("API key required").hint(format!("give it with `--key <key>`, or set {KEY}"))
    })?;
    let key = Key::parse(&key).ok_or_else(|| {
        wrong("this is no API key: one has letters, digits and signs, and no line's end")
            .hint(format!("look at what `--key` or {KEY} really holds"))
    })?;
    Ok(Some(Remote {
        address,
        key,
        ca_bundle: ca_bundle(world).filter(|_| world.trust == Trust::Full),
    }))
}

/// Whom it trusts is whom we show the key: not everybody's to say.
fn ca_bundle(world: &World<'_>) -> Option<PathBuf> {
    world.config.network.ca_bundle.clone()
}

/// What the person should hear of this way.
pub(super) fn warnings(remote: &Remote, world: &World<'_>) -> Vec<String> {
    let address = &remote.address;
    let mut warnings = Vec::new();
    if !address.is_secure() && !address.is_loopback() {
        warnings.push(format!(
            "the key and the program travel to `{address}` in the clear; use `https://`"
        ));
    }
    if address.is_secure() && remote.ca_bundle.is_none() && ca_bundle(world).is_some() {
        warnings.push(format!(
            "`{address}` is not judged by `network.caBundle` of the working directory's \
             configuration; your own may have one, or set SSL_CERT_FILE"
        ));
    }
    warnings
}
