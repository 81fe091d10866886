//! Where the run takes place with `--host`, and the key that opens it.

use std::ffi::OsString;

use isol8_core::failure::Failure;

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
        ca_bundle: world.config.network.ca_bundle.clone(),
    }))
}

/// What the person should hear of this way.
pub(super) fn warning(remote: &Remote) -> Option<String> {
    let address = &remote.address;
    let is_open = !address.is_secure() && !address.is_loopback();
    is_open.then(|| {
        format!("the key and the program travel to `{address}` in the clear; use `https://`")
    })
}
