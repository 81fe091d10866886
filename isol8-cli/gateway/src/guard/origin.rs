//! Whom a request was meant for.
//!
//! A web page in the browser of somebody on this machine can send requests to
//! 127.0.0.1, and can make a name of its own resolve to it. The first kind has an
//! `Origin` that is not ours; the second has a `Host` that is not ours.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header, uri::Authority};

use crate::{gateway::Shared, refusal::Refusal};

/// # Errors
/// 400 without a host, 403 for another one or for another origin.
pub(super) fn check(headers: &HeaderMap, uri: &Uri, shared: &Shared) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let host = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    // Not `somebody@localhost`: a `Host` names nobody, and readers differ about it.
    let host = host.filter(|host| more.is_none() && !host.as_str().contains('@'));
    let Some(host) = host else {
        return Err(Refusal::invalid(
            "the request has no `Host`, or no valid one",
        ));
    };
    let other = uri.authority().is_some_and(|target| *target != host);
    if other || !is_ours(host.host(), shared) {
        return Err(Refusal::forbidden(format!(
            "`Host`: this gateway is not called `{}`",
            host.host().escape_debug()
        )));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().ok();
        let same = origin.and_then(|origin| {
            let authority = origin.strip_prefix("http://");
            authority.or_else(|| origin.strip_prefix("https://"))
        });
        if !same.is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_str())) {
            return Err(Refusal::forbidden(
                "`Origin`: requests of other web pages are refused",
            ));
        }
    }
    Ok(())
}

/// An address is ours if we listen there, or everywhere: no page can make a name
/// of an address.
fn is_ours(host: &str, shared: &Shared) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
        let bound = shared.address;
        return address.is_loopback()
            || bound.is_some_and(|bound| bound.is_unspecified() || bound == address);
    }
    let called = |name: &str| name.eq_ignore_ascii_case(host);
    called("localhost") || shared.hosts.iter().any(|name| called(name))
}
