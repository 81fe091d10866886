//! What the resolver of the C library takes for an address.

use std::{
    ffi::CString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

/// The address that `getaddrinfo` would dial for a text without asking anybody;
/// `None` where it would ask for a name.
#[expect(
    unsafe_code,
    reason = "std has no resolver that is sure not to ask the network"
)]
pub(crate) fn numeric(text: &str) -> Option<IpAddr> {
    let text = CString::new(text).ok()?;
    // SAFETY: zero is a valid value of every field of `addrinfo`: integers and
    // null pointers.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_flags = libc::AI_NUMERICHOST;
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut found = ptr::null_mut();
    // SAFETY: the text ends in NUL and outlives the call, as `hints` does; the
    // service may be null; `found` is written before 0 is returned.
    let code = unsafe { libc::getaddrinfo(text.as_ptr(), ptr::null(), &hints, &mut found) };
    if code != 0 {
        return None;
    }
    // SAFETY: after 0 `found` is a list of at least one entry, whose address is
    // of the type that its family says; it is freed once and not used again.
    unsafe {
        let first = (*found).ai_addr;
        let address = match i32::from((*first).sa_family) {
            libc::AF_INET => {
                let address = (*first.cast::<libc::sockaddr_in>()).sin_addr.s_addr;
                IpAddr::from(Ipv4Addr::from(u32::from_be(address)))
            }
            _ => {
                let address = (*first.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr;
                IpAddr::from(Ipv6Addr::from(address))
            }
        };
        libc::freeaddrinfo(found);
        Some(address)
    }
}
