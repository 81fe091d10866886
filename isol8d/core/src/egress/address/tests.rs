use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(address: &str, expected: Option<AddressClass>) {
    assert_eq!(class(address.parse().unwrap()), expected, "{address}");
}

fn ranges(texts: &[&str]) -> Vec<IpRange> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn each_range_begins_and_ends_where_it_should() {
    use AddressClass::*;

    for (first, last, expected) in [
        ("0.0.0.0", "0.255.255.255", Unspecified),
        ("10.0.0.0", "10.255.255.255", Private),
        ("100.64.0.0", "100.127.255.255", SharedCgn),
        ("127.0.0.0", "127.255.255.255", Loopback),
        ("169.254.0.0", "169.254.255.255", LinkLocal),
        ("172.16.0.0", "172.31.255.255", Private),
        ("192.0.0.0", "192.0.0.255", Reserved),
        ("192.88.99.0", "192.88.99.255", Reserved),
        ("192.168.0.0", "192.168.255.255", Private),
        ("198.18.0.0", "198.19.255.255", Benchmark),
        ("224.0.0.0", "239.255.255.255", Multicast),
        ("240.0.0.0", "255.255.255.255", Reserved),
    ] {
        check(first, Some(expected));
        check(last, Some(expected));
        let before = u32::from(first.parse::<Ipv4Addr>().unwrap()).checked_sub(1);
        let after = u32::from(last.parse::<Ipv4Addr>().unwrap()).checked_add(1);
        for neighbour in [before, after].into_iter().flatten() {
            let found = class(Ipv4Addr::from(neighbour).into());
            assert_ne!(found, Some(expected), "beside {first}-{last}");
        }
    }
}

#[test]
fn public_addresses_are_public() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "223.255.255.255",
        // Documentation: nobody's.
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "2001:db8::1",
        "2606:4700::1111",
        "2001:200::1",
        "2a00:1450::1",
        "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "::ffff:8.8.8.8",
    ] {
        check(address, None);
        assert_eq!(permitted(address.parse().unwrap(), &[]), Ok(()));
    }
}

#[test]
fn everything_else_in_ipv6_is_not() {
    use AddressClass::*;

    for (address, expected) in [
        ("::", Unspecified),
        ("::1", Loopback),
        ("fc00::", Private),
        ("fdff::1", Private),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("fec0::1", Private),
        ("feff::1", Private),
        ("ff02::1", Multicast),
        ("100::1", Reserved),
        ("1fff::1", Reserved),
        ("4000::1", Reserved),
        ("5f00::1", Reserved),
        ("2001:2::1", Benchmark),
        ("2001:10::1", Reserved),
        ("2001:20::1", Reserved),
        ("2001:1ff::1", Reserved),
    ] {
        check(address, Some(expected));
    }
}

#[test]
fn metadata_services_are_called_by_their_name() {
    for address in [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
        "::ffff:169.254.169.254",
        "::ffff:100.100.100.200",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "64:ff9b:1:ffff::a83f:8110",
        "2002:a9fe:a9fe::",
        "2002:a9fe:a9fe::1",
        "2001::5601:5601",
        "2001:0:1:2:3:4:5601:5601",
    ] {
        check(address, Some(AddressClass::Metadata));
    }
}

#[test]
fn ipv4_inside_of_ipv6_is_judged_as_well() {
    use AddressClass::*;

    for (address, expected) in [
        ("::ffff:127.0.0.1", Loopback),
        ("::ffff:10.0.0.1", Private),
        ("::127.0.0.1", Loopback),
        ("::10.0.0.1", Private),
        ("::8.8.8.8", Translated),
        ("64:ff9b::7f00:1", Loopback),
        ("64:ff9b::8.8.8.8", Translated),
        ("64:ff9b:1:2:3:4:a00:1", Private),
        ("2002:7f00:1::", Loopback),
        ("2002:0a00:0001::1", Private),
        ("2002:808:808::1", Translated),
        ("2001::80ff:fffe", Loopback),
        ("2001:0:808:808::f7f7:f7f7", Translated),
    ] {
        check(address, Some(expected));
    }
}

#[test]
fn only_a_range_that_holds_the_address_opens_it() {
    let opened = ranges(&["10.1.0.0/16", "127.0.0.1", "fd00::/8"]);
    for address in [
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "127.0.0.1",
        "fd12::1",
        "8.8.8.8",
    ] {
        assert_eq!(
            permitted(address.parse().unwrap(), &opened),
            Ok(()),
            "{address}"
        );
    }
    for (address, why) in [
        ("10.2.0.0", AddressClass::Private),
        ("127.0.0.2", AddressClass::Loopback),
        ("0.0.0.0", AddressClass::Unspecified),
        ("::1", AddressClass::Loopback),
        ("fc00::1", AddressClass::Private),
        ("64:ff9b::10.1.2.3", AddressClass::Private),
    ] {
        assert_eq!(
            permitted(address.parse().unwrap(), &opened),
            Err(why),
            "{address}"
        );
    }
}

#[test]
fn a_tunnel_needs_both_ends() {
    let nat64 = ranges(&["64:ff9b::/96"]);
    let both = ranges(&["64:ff9b::/96", "10.0.0.0/8"]);
    let public = "64:ff9b::8.8.8.8".parse().unwrap();
    let private = "64:ff9b::10.0.0.1".parse().unwrap();
    assert_eq!(permitted(public, &[]), Err(AddressClass::Translated));
    assert_eq!(permitted(public, &nat64), Ok(()));
    assert_eq!(permitted(private, &nat64), Err(AddressClass::Private));
    assert_eq!(permitted(private, &both), Ok(()));
    assert_eq!(
        permitted("64:ff9b::a9fe:a9fe".parse().unwrap(), &both),
        Err(AddressClass::Metadata)
    );
}

proptest! {
    #[test]
    fn no_wrapping_opens_an_address(v4: [u8; 4]) {
        let inner = Ipv4Addr::from(v4);
        let [a, b, c, d] = v4.map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        let mapped: IpAddr = inner.to_ipv6_mapped().into();
        prop_assert_eq!(class(mapped), class(inner.into()));
        for wrapped in [
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 7, 8, 9, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 1, 2, 3, 4, 5),
            Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !high, !low),
        ] {
            prop_assert_eq!(permitted(wrapped.into(), &[]).is_err(), true, "{}", wrapped);
            let everything = ranges(&["::/0"]);
            let opened = permitted(wrapped.into(), &everything);
            prop_assert_eq!(opened.is_ok(), class(inner.into()).is_none(), "{}", wrapped);
        }
    }

    #[test]
    fn outside_of_2000_nothing_is_public(v6: [u8; 16]) {
        let address = Ipv6Addr::from(v6);
        let global = v6[0] & 0xe0 == 0x20 || address.to_ipv4_mapped().is_some();
        prop_assert!(global || class(address.into()).is_some(), "{}", address);
    }
}
