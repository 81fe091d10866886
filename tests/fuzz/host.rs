//! The canonicaliser.

use std::net::IpAddr;

use isol8_core::egress::host::Host;

use crate::numeric::numeric;

/// A canonical host is plain, stays as it is, and is dialled as it was judged.
///
/// # Panics
/// When one of these does not hold.
pub fn host(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let parsed = Host::parse(text);
    // What the C library dials without asking for a name is that address to us.
    if let Some(dialled) = numeric(text) {
        match &parsed {
            Ok(host) => assert_eq!(host.address(), Some(dialled.to_canonical()), "{text:?}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let Ok(host) = parsed else {
        return;
    };
    let canonical = host.to_string();
    assert_eq!(Host::parse(&canonical).as_ref(), Ok(&host), "{text:?}");
    match &host {
        Host::Name(name) => {
            assert_eq!(name.as_str(), canonical);
            assert!(
                canonical.len() <= 253 && !canonical.starts_with('-'),
                "{text:?}"
            );
            for label in canonical.split('.') {
                let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
                assert!(matches!(label.len(), 1..=63), "{text:?}");
                assert!(label.bytes().all(plain), "{text:?}");
            }
            assert!(canonical.parse::<IpAddr>().is_err(), "{text:?}");
            assert_eq!(numeric(&canonical), None, "{text:?}");
        }
        Host::Address(address) => {
            assert_eq!(address.to_canonical(), *address, "{text:?}");
            assert_eq!(numeric(&canonical), Some(*address), "{text:?}");
        }
    }
}
