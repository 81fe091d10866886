//! Addresses that a sandbox has no business with.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::config::values::IpRange;

/// Why an address is not a public one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// A service that tells a cloud machine its secrets.
    Metadata,
    /// `0.0.0.0/8`, `::`: "this host", dialled as loopback.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// RFC 1918, unique local (`fc00::/7`), site-local (`fec0::/10`).
    Private,
    /// `100.64.0.0/10`, between a provider and its customers.
    SharedCgn,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `198.18.0.0/15`, `2001:2::/48`: networks that measure routers.
    Benchmark,
    /// IPv4 inside of IPv6 (NAT64, 6to4, Teredo, IPv4-compatible): who really
    /// gets the packets is another machine's decision.
    Translated,
    /// Set aside, or not handed out yet.
    Reserved,
}

impl AddressClass {
    /// In words, as in "a loopback address".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::SharedCgn => "shared (carrier NAT)",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Benchmark => "benchmark",
            Self::Translated => "translated",
            Self::Reserved => "reserved",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Metadata services, IPv4: most clouds, Alibaba, Azure (a public address!),
/// Oracle.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Metadata services, IPv6: Amazon, Google, Scaleway.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042),
];

/// What is special about an address; `None` for a public one.
///
/// Documentation ranges (`192.0.2.0/24`, `198.51.100.0/24`, `203.0.113.0/24`,
/// `2001:db8::/32`) count as public: they are nobody's, so that refusing them
/// protects nothing, and closed networks put their mirrors there.
#[must_use]
pub fn class(address: IpAddr) -> Option<AddressClass> {
    match address.to_canonical() {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => Some(class_v4(inner).unwrap_or(AddressClass::Translated)),
            None => class_v6(address),
        },
    }
}

/// Whether a sandbox may reach an address: a public one, or one that a range of
/// the operator's holds. IPv4 inside of IPv6 needs both: the outer address in a
/// range, and the inner one permitted by itself.
///
/// # Errors
/// The class for which it is refused.
pub fn permitted(address: IpAddr, allow_private: &[IpRange]) -> Result<(), AddressClass> {
    let address = address.to_canonical();
    let Some(class) = class(address) else {
        return Ok(());
    };
    if !allow_private.iter().any(|range| range.contains(address)) {
        return Err(class);
    }
    match address {
        IpAddr::V6(outer) => match embedded(outer) {
            Some(inner) => permitted(inner.into(), allow_private),
            None => Ok(()),
        },
        IpAddr::V4(_) => Ok(()),
    }
}

fn class_v4(address: Ipv4Addr) -> Option<AddressClass> {
    use AddressClass as Class;

    if METADATA_V4.contains(&address) {
        return Some(Class::Metadata);
    }
    Some(match address.octets() {
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [100, 64..=127, ..] => Class::SharedCgn,
        [169, 254, ..] => Class::LinkLocal,
        // 192.88.99.0/24 was the way to 6to4 relays.
        [192, 0, 0, _] | [192, 88, 99, _] => Class::Reserved,
        [198, 18..=19, ..] => Class::Benchmark,
        [224..=239, ..] => Class::Multicast,
        [240..=255, ..] => Class::Reserved,
        _ => return None,
    })
}

fn class_v6(address: Ipv6Addr) -> Option<AddressClass> {
    use AddressClass as Class;

    if METADATA_V6.contains(&address) {
        return Some(Class::Metadata);
    }
    if address.is_unspecified() {
        return Some(Class::Unspecified);
    }
    if address.is_loopback() {
        return Some(Class::Loopback);
    }
    let segments = address.segments();
    Some(match segments[0] {
        0xfc00..=0xfdff | 0xfec0..=0xfeff => Class::Private,
        0xfe80..=0xfebf => Class::LinkLocal,
        0xff00..=0xffff => Class::Multicast,
        0x2001 if segments[1..3] == [2, 0] => Class::Benchmark,
        // 2001::/23 is for protocols, not for hosts.
        0x2001 if segments[1] < 0x0200 => Class::Reserved,
        0x2000..=0x3fff => return None,
        // Only 2000::/3 has been handed out for hosts.
        _ => Class::Reserved,
    })
}

/// The IPv4 address inside of a translated or tunnelled IPv6 one.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let joined = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // `::` and `::1` are not IPv4-compatible; they mean something themselves.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] => Some(joined(high, low)),
        // IPv4-translated (SIIT), `::ffff:0:a.b.c.d`.
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(joined(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(joined(high, low)),
        // Where the address stands in 64:ff9b:1::/48 is the network's choice
        // (RFC 6052); its usual prefix is /96.
        [0x64, 0xff9b, 1, _, _, _, high, low] => Some(joined(high, low)),
        [0x2002, high, low, ..] => Some(joined(high, low)),
        // Teredo writes the client's address inverted.
        [0x2001, 0, .., high, low] => Some(joined(!high, !low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
