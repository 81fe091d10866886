//! Where a gateway is.

use std::fmt;

use rustls::pki_types::ServerName;
use url::{Host, Url};

/// The door that runs go through.
const DOOR: &str = "/execute/ws";

/// An `http` or `https` URL without anything that is not for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(Url);

impl Address {
    /// Takes `http://host[:port][/base]` and the same with `https`. `None` for
    /// everything else: also for a user, a password or a query, which would be shown
    /// wherever the address is.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut schemes = ["http://", "https://"].iter();
        let rest = schemes.find_map(|scheme| text.strip_prefix(scheme))?;
        // The parser would take what follows for the host.
        if rest.is_empty() || rest.starts_with(['/', '\\']) {
            return None;
        }
        let url = Url::parse(text).ok()?;
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && !rest.contains(['@', '?', '#']);
        (is_plain && url.host().is_some() && url.port_or_known_default() != Some(0))
            .then_some(Self(url))
    }

    /// Everything is encrypted, and the server proves who it is.
    pub(crate) fn is_secure(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Nothing leaves this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.host() {
            Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }

    pub(crate) fn host(&self) -> Host<&str> {
        self.0.host().expect("it was checked")
    }

    pub(crate) fn port(&self) -> u16 {
        let port = self.0.port_or_known_default();
        port.expect("both schemes have one")
    }

    /// For the `Host` of a request.
    pub(crate) fn authority(&self) -> String {
        let host = self.host();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        }
    }

    /// The path of the door, below the base.
    pub(crate) fn door(&self) -> String {
        format!("{}{DOOR}", self.0.path().trim_end_matches('/'))
    }

    /// Who the certificate must be for.
    pub(crate) fn server_name(&self) -> Option<ServerName<'static>> {
        match self.host() {
            Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
            Host::Ipv4(address) => Some(ServerName::IpAddress(address.into())),
            Host::Ipv6(address) => Some(ServerName::IpAddress(address.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address_and_where_it_leads() {
        let table = [
            ("http://h", "http://h", "h", 80, "/execute/ws"),
            (
                "http://h:3000/",
                "http://h:3000",
                "h:3000",
                3000,
                "/execute/ws",
            ),
            (
                "https://H.example",
                "https://h.example",
                "h.example",
                443,
                "/execute/ws",
            ),
            (
                "https://h:443/a/b/",
                "https://h/a/b",
                "h",
                443,
                "/a/b/execute/ws",
            ),
            (
                "http://[::1]:8",
                "http://[::1]:8",
                "[::1]:8",
                8,
                "/execute/ws",
            ),
            (
                "http://127.0.0.1:1/x",
                "http://127.0.0.1:1/x",
                "127.0.0.1:1",
                1,
                "/x/execute/ws",
            ),
        ];
        for (text, shown, authority, port, door) in table {
            let address = Address::parse(text).expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(
                (address.authority().as_str(), address.port()),
                (authority, port)
            );
            assert_eq!(address.door(), door);
            assert_eq!(address.is_secure(), text.starts_with("https"));
            assert!(address.server_name().is_some());
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "h",
            "h:3000",
            "ftp://h",
            "http:h",
            "http://",
            "http:///h",
            "https://\\h",
            "http://u@h",
            "http://u:p@h",
            "http://:p@h",
            "http://@h",
            "http://h?key=k",
            "http://h#x",
            "http://h:0",
            "http://h:99999",
            "http://a b",
            " http://h",
            "http://h:x",
        ] {
            assert_eq!(Address::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_stays_on_this_machine() {
        for text in [
            "http://localhost",
            "http://127.9.9.9",
            "http://[::1]",
            "http://x.localhost:1",
        ] {
            assert!(Address::parse(text).expect(text).is_loopback(), "{text}");
        }
        for text in [
            "http://localhost.example",
            "http://10.0.0.1",
            "http://[::]",
            "http://0.0.0.0",
        ] {
            assert!(!Address::parse(text).expect(text).is_loopback(), "{text}");
        }
    }
}
