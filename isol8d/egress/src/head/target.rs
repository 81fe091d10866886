//! Where a request goes: the two forms of target that a proxy takes.

use hyper::http::uri::PathAndQuery;
use isol8_core::egress::host::Host;

use super::Fault;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `http://host:port/path`.
    Origin {
        /// Canonical.
        host: Host,
        /// 80 where none was given.
        port: u16,
        /// Path and query, at least `/`.
        path: PathAndQuery,
    },
    /// `CONNECT host:port`.
    Tunnel {
        /// Canonical.
        host: Host,
        /// Always given.
        port: u16,
    },
}

impl Target {
    /// The canonical host.
    #[must_use]
    pub fn host(&self) -> &Host {
        match self {
            Self::Origin { host, .. } | Self::Tunnel { host, .. } => host,
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Origin { port, .. } | Self::Tunnel { port, .. } => *port,
        }
    }

    /// Reads the target of a CONNECT: an authority with a port, nothing else.
    pub(super) fn tunnel(text: &str) -> Result<Self, Fault> {
        let (host, port) = authority(text)?;
        let port = port.ok_or(Fault::Port)?;
        Ok(Self::Tunnel { host, port })
    }

    /// Reads an absolute-form target.
    pub(super) fn origin(text: &str) -> Result<Self, Fault> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Fault::TargetForm);
        };
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if scheme.is_empty() || !scheme.chars().all(is_scheme) {
            return Err(Fault::TargetForm);
        }
        if scheme.eq_ignore_ascii_case("https") {
            return Err(Fault::HttpsTarget);
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(Fault::Scheme);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, port) = authority(&rest[..end])?;
        Ok(Self::Origin {
            host,
            port: port.unwrap_or(80),
            path: path(&rest[end..])?,
        })
    }
}

/// The text of the authority, for the log of a request that was refused.
pub(super) fn authority_text(target: &str) -> &str {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    rest[..end].rsplit('@').next().unwrap_or_default()
}

fn authority(text: &str) -> Result<(Host, Option<u16>), Fault> {
    if text.contains('@') {
        return Err(Fault::UserInfo);
    }
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(Fault::Host)? + 1;
        match &text[end..] {
            "" => (&text[..end], None),
            rest => (
                &text[..end],
                Some(rest.strip_prefix(':').ok_or(Fault::Host)?),
            ),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let host = Host::parse(host).map_err(|_| Fault::Host)?;
    Ok((host, port.map(parse_port).transpose()?))
}

fn parse_port(text: &str) -> Result<u16, Fault> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::Port);
    }
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or(Fault::Port)
}

fn path(text: &str) -> Result<PathAndQuery, Fault> {
    // A fragment is for the client alone; one that sends it is confused about
    // where its host ends.
    if text.contains('#') {
        return Err(Fault::Path);
    }
    let parsed = if text.starts_with('/') {
        PathAndQuery::try_from(text)
    } else {
        PathAndQuery::try_from(format!("/{text}"))
    };
    parsed.map_err(|_| Fault::Path)
}
