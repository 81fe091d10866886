//! The one canonical form of a host.
//!
//! Rules that judge one spelling while the resolver dials another are no rules.
//! A host is read here as browsers read it (the URL standard: UTS 46 for names,
//! every numeric spelling of an IPv4 address folded), and what is left must be
//! a plain name or an address. Everything else is refused, not repaired.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use thiserror::Error;

/// The longest name that DNS can carry, in bytes, without its last dot.
const LONGEST_NAME: usize = 253;

/// The longest label of a name, in bytes.
const LONGEST_LABEL: usize = 63;

/// The longest text that is looked at, in bytes. A name of 253 bytes in ASCII
/// is shorter than this however it is spelled; the bound keeps the Unicode
/// tables from being walked for megabytes.
const LONGEST_TEXT: usize = 2048;

/// A host in its canonical form.
///
/// Its text (by `Display`) parses to the same host again: lower case, ASCII,
/// without a last dot; IPv6 compressed and without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name, to be resolved.
    Name(HostName),
    /// An address. IPv4 inside of IPv6 (`::ffff:a.b.c.d`) is IPv4 here.
    Address(IpAddr),
}

/// A name of letters, digits, hyphens and underscores between single dots,
/// whose last label is no number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidHost {
    /// Nothing, or nothing that is left after folding.
    #[error("a host must not be empty")]
    Empty,
    /// Longer than any spelling of a name.
    #[error("a host name has at most {LONGEST_NAME} bytes")]
    TooLong,
    /// A label (what stands between dots) is longer than DNS allows.
    #[error("a part of a host name has at most {LONGEST_LABEL} bytes")]
    LabelTooLong,
    /// Two dots in a row, or one at the start.
    #[error("a host name has no empty parts")]
    EmptyLabel,
    /// A character that no host has.
    #[error("a host name does not hold `{}`", .0.escape_debug())]
    Character(char),
    /// It begins with a hyphen and would read as an option.
    #[error("a host name does not begin with `-`")]
    Hyphen,
    /// Its last part is a number, so that it is an address, and it is none.
    #[error("a host that ends in a number must be an IPv4 address")]
    Address,
    /// In brackets or with colons, and not an IPv6 address.
    #[error("this is not an IPv6 address")]
    Ipv6,
    /// Not a name by the rules for international names.
    #[error("this is not a valid international host name")]
    International,
}

impl Host {
    /// Reads a host as it stands in a request or a URL: a name, an IPv4 address
    /// in any spelling, an IPv6 address with or without brackets. A port, a
    /// user, a scheme or a percent-encoding is not part of a host.
    ///
    /// # Errors
    /// [`InvalidHost`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text.is_empty() {
            return Err(InvalidHost::Empty);
        }
        if text.len() > LONGEST_TEXT {
            return Err(InvalidHost::TooLong);
        }
        // Percent signs would be decoded below, controls and spaces dropped or
        // folded; whoever writes them into a host means to confuse. Zone ids
        // (`fe80::1%eth0`) name an interface of this machine.
        let strange = |c: &char| *c == '%' || c.is_control() || c.is_whitespace();
        if let Some(c) = text.chars().find(strange) {
            return Err(InvalidHost::Character(c));
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(InvalidHost::Ipv6)?;
            return ipv6(inner);
        }
        if text.contains(':') {
            return ipv6(text);
        }
        match url::Host::parse(text) {
            Ok(url::Host::Ipv4(address)) => Ok(Self::Address(address.into())),
            Ok(url::Host::Ipv6(address)) => Ok(folded(address)),
            Ok(url::Host::Domain(name)) => Self::name(name),
            Err(url::ParseError::EmptyHost) => Err(InvalidHost::Empty),
            Err(url::ParseError::InvalidIpv4Address) => Err(InvalidHost::Address),
            Err(_) => Err(refused_character(text)),
        }
    }

    fn name(mut name: String) -> Result<Self, InvalidHost> {
        if name.ends_with('.') {
            name.pop();
        }
        if name.is_empty() {
            return Err(InvalidHost::Empty);
        }
        if name.len() > LONGEST_NAME {
            return Err(InvalidHost::TooLong);
        }
        if let Some(c) = name.chars().find(|c| !is_plain(*c) && *c != '.') {
            return Err(InvalidHost::Character(c));
        }
        if name.starts_with('-') {
            return Err(InvalidHost::Hyphen);
        }
        for label in name.split('.') {
            if label.is_empty() {
                return Err(InvalidHost::EmptyLabel);
            }
            if label.len() > LONGEST_LABEL {
                return Err(InvalidHost::LabelTooLong);
            }
        }
        Ok(Self::Name(HostName(name)))
    }

    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Address(address) => Some(*address),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What is left of a name after folding: `a-z`, `0-9`, `-`, and `_` because
/// services and container networks use it.
fn is_plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
}

fn ipv6(text: &str) -> Result<Host, InvalidHost> {
    let address: Ipv6Addr = text.parse().map_err(|_| InvalidHost::Ipv6)?;
    Ok(folded(address))
}

fn folded(address: Ipv6Addr) -> Host {
    Host::from(IpAddr::V6(address))
}

/// The parser says only that a name is refused; people want to know why.
fn refused_character(text: &str) -> InvalidHost {
    let odd = |c: &char| c.is_ascii() && !is_plain(c.to_ascii_lowercase()) && *c != '.';
    match text.chars().find(odd) {
        Some(c) => InvalidHost::Character(c),
        None => InvalidHost::International,
    }
}

#[cfg(test)]
mod tests;
