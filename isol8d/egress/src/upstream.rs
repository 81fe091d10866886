//! The proxy that a network makes its hosts use, when there is one.
//!
//! Such a proxy resolves names itself, so we cannot dial the address that was
//! judged. What we do instead:
//!
//! - names are judged by the rules as ever, and so are addresses that a
//!   request names itself;
//! - names are resolved here too, if they can be. Where one address of a name
//!   is refused, the request is: which of them the proxy would take is not
//!   ours to say;
//! - a name that does not resolve here goes on to the proxy, because behind
//!   such proxies names outside often do not resolve at all. What the proxy
//!   reaches with it is then the proxy's own policy.
//!
//! The name itself goes to the proxy, never an address of ours: its policy is
//! about names.

use std::{fmt, net::IpAddr};

use data_encoding::BASE64;
use hyper::header::HeaderValue;
use isol8_core::{config::values::IpRange, egress::host::Host};
use thiserror::Error;

/// Why a text is not an upstream proxy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidUpstream {
    /// Neither `http://` nor `https://`.
    #[error("an upstream proxy begins with `http://` or `https://`")]
    Scheme,
    /// Not a host.
    #[error("the host of the upstream proxy is not valid")]
    Host,
    /// Not a port.
    #[error("the port of the upstream proxy is not valid")]
    Port,
    /// A user name or password that is not valid percent-encoding.
    #[error("the user name or password of the upstream proxy is not valid")]
    UserInfo,
    /// Something behind the port.
    #[error("an upstream proxy has no path")]
    Path,
}

/// An upstream proxy. Its password is in no text of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) is_tls: bool,
    pub(crate) authorization: Option<HeaderValue>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

/// `host:port`, with brackets round an IPv6 address.
pub(crate) fn authority(host: &Host, port: u16) -> String {
    match host {
        Host::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        host => format!("{host}:{port}"),
    }
}

impl Upstream {
    /// Reads `http://user:password@host:port`; user and port may be missing
    /// (80 and 443), and the scheme may be `https`.
    ///
    /// # Errors
    /// [`InvalidUpstream`]; it never repeats the text, which may hold a
    /// password.
    pub fn parse(text: &str) -> Result<Self, InvalidUpstream> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidUpstream::Scheme)?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(InvalidUpstream::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        if place.contains(['/', '?', '#']) {
            return Err(InvalidUpstream::Path);
        }
        let (host, port) = split_port(place);
        let default = if is_tls { 443 } else { 80 };
        let port = port
            .map_or(Ok(default), str::parse)
            .map_err(|_| InvalidUpstream::Port)?;
        if port == 0 {
            return Err(InvalidUpstream::Port);
        }
        Ok(Self {
            host: Host::parse(host).map_err(|_| InvalidUpstream::Host)?,
            port,
            is_tls,
            authorization: user.map(basic).transpose()?,
        })
    }
}

/// Splits a port off; a bare IPv6 address has none.
fn split_port(place: &str) -> (&str, Option<&str>) {
    if let Some(end) = place.strip_prefix('[').and_then(|rest| rest.find(']')) {
        let (host, rest) = place.split_at(end + 2);
        return (
            host,
            rest.strip_prefix(':')
                .or((!rest.is_empty()).then_some(rest)),
        );
    }
    match place.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (place, None),
    }
}

fn basic(user: &str) -> Result<HeaderValue, InvalidUpstream> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain = percent_decoded(name)?;
    plain.push(b':');
    plain.extend(percent_decoded(password)?);
    let text = format!("Basic {}", BASE64.encode(&plain));
    let mut value = HeaderValue::try_from(text).map_err(|_| InvalidUpstream::UserInfo)?;
    value.set_sensitive(true);
    Ok(value)
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, InvalidUpstream> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next().unwrap_or_default()).to_digit(16);
            digit
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or(InvalidUpstream::UserInfo)
        };
        out.push(digit()? << 4 | digit()?);
    }
    Ok(out)
}

/// Hosts that are reached without the upstream proxy (`NO_PROXY`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bypass {
    all: bool,
    ranges: Vec<IpRange>,
    /// Without a dot in front; each stands for itself and all below it.
    names: Vec<(String, Option<u16>)>,
}

impl Bypass {
    /// Reads a list as `NO_PROXY` has it: names, which stand for everything
    /// below them too, with or without a dot in front; addresses; ranges;
    /// `*` for all. A name may carry a port. An entry that is none of these
    /// matches nothing, as everywhere else: it only means that the proxy is
    /// used.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let mut bypass = Self::default();
        for entry in list
            .split([',', ' '])
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            if entry == "*" {
                bypass.all = true;
            } else if let Ok(range) = entry.trim_matches(['[', ']']).parse() {
                bypass.ranges.push(range);
            } else {
                let (name, port) = split_port(entry);
                let name = name
                    .strip_prefix("*.")
                    .or(name.strip_prefix('.'))
                    .unwrap_or(name);
                match (Host::parse(name), port.map(str::parse).transpose()) {
                    (Ok(Host::Name(name)), Ok(port)) => bypass.names.push((name.to_string(), port)),
                    _ => {
                        tracing::warn!("an entry of the list of hosts without proxy is not a host")
                    }
                }
            }
        }
        bypass
    }

    /// Whether this host is reached directly.
    #[must_use]
    pub fn contains(&self, host: &Host, port: u16) -> bool {
        self.all
            || match host {
                Host::Address(address) => self.ranges.iter().any(|range| range.contains(*address)),
                Host::Name(name) => self.names.iter().any(|(entry, entry_port)| {
                    let rest = name.as_str().strip_suffix(entry.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                        && entry_port.is_none_or(|entry_port| entry_port == port)
                }),
            }
    }
}
