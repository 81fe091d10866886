use super::*;

const PATH: &[u8] = b"run%2Fuser%2F7%2Fd.sock";
const MENDED: &[u8] = b"run-2Fuser-2F7-2Fd.sock";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn text(text: &[u8]) -> Vec<u8> {
    // Lengths below 127 are one byte.
    let mut field = vec![u8::try_from(text.len()).expect("short")];
    field.extend(text);
    field
}

/// A block with fields of every form around the authority, whose name is
/// written out or a number.
fn block(authority: &[u8], by_name: bool) -> Vec<u8> {
    // An entry of a table, the size of one, and a number of several bytes.
    let mut block = vec![0x83, 0x3f, 0xe1, 0x1f, 0xff, 0x80, 0x01];
    block.extend([vec![0x04], text(b"/a/%2F")].concat());
    let long = vec![b'/'; 300];
    block.extend([&[0x40][..], &text(b"x"), &[0x7f, 0xad, 0x01], &long].concat());
    if by_name {
        block.extend([vec![0x40], text(NAME), text(authority)].concat());
    } else {
        block.extend([vec![0x41], text(authority)].concat());
    }
    block.extend([vec![0x10], text(b":authoritx"), text(b"a/b")].concat());
    block
}

fn connection(authority: &[u8]) -> Vec<u8> {
    let named = block(authority, true);
    let numbered = block(authority, false);
    let padded = [&[3][..], &[b'/'; 5], &numbered, &[b'/'; 3]].concat();
    let (begin, end) = named.split_at(330);
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, &[]),
        frame(HEADERS, 0x4, &numbered),
        // What looks like an authority and is data.
        frame(0, 0, &[vec![0x41], text(PATH)].concat()),
        frame(HEADERS, 0x4 | PADDED | PRIORITY, &padded),
        frame(HEADERS, 0, begin),
        frame(CONTINUATION, 0x4, end),
        frame(HEADERS, 0x4, &[]),
        frame(6, 0, &[0x41; 8]),
        frame(HEADERS, 0x4, &numbered),
    ]
    .concat()
}

#[test]
fn the_path_of_a_socket_becomes_a_host_however_it_comes() {
    let expected = connection(MENDED);
    for size in 1..=expected.len() {
        let mut bytes = connection(PATH);
        let mut authority = Authority::default();
        for piece in bytes.chunks_mut(size) {
            authority.mend(piece);
        }
        assert!(bytes == expected, "in pieces of {size}");
    }
}

/// The code of each character that these tests need, as RFC 7541 has it.
fn coded(text: &str) -> Vec<u8> {
    let code = |character| match character {
        'o' => "00111",
        's' => "01000",
        'i' => "00110",
        'c' => "00100",
        '2' => "00010",
        'e' => "00101",
        '%' => "010101",
        '.' => "010111",
        '/' => "011000",
        '5' => "011011",
        '=' => "100000",
        'b' => "100011",
        'l' => "101000",
        '8' => "011110",
        'd' => "100100",
        'r' => "101100",
        'u' => "101101",
        'n' => "101010",
        ':' => "1011100",
        'B' => "1011101",
        'F' => "1100001",
        'k' => "1110101",
        '&' => "11111000",
        '~' => "1111111111101",
        _ => panic!("no code for {character}"),
    };
    let mut bits: String = text.chars().map(code).collect();
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    let bytes = bits.as_bytes().chunks(8).map(|bits| {
        let bits = std::str::from_utf8(bits).expect("ASCII");
        u8::from_str_radix(bits, 2).expect("eight bits")
    });
    bytes.collect()
}

#[test]
fn a_path_in_the_code_of_hpack_keeps_its_length_too() {
    for (path, host) in [
        ("localhost", None),
        ("/run/isol8/d.sock", Some("5run5isol85d.sock")),
        ("%2Frun%2Fd.sock", Some(".2Frun.2Fd.sock")),
        ("o:/=s", Some("oB5bs")),
        // What is not understood ends the change, and keeps what was changed.
        ("/d~/d", Some("5d~/d")),
    ] {
        let path = path.replace(['a', 'h', 't'], "e");
        let host = host.map_or_else(|| path.clone(), str::to_owned);
        let field = |text: &[u8]| {
            let length = 0x80 | u8::try_from(text.len()).expect("short");
            let block = [&[0x41, length], text, &[0x04, 1, b'/']].concat();
            [vec![b' '; PREFACE_BYTES], frame(HEADERS, 0x4, &block)].concat()
        };
        let expected = field(&coded(&host));
        for size in 1..=expected.len() {
            let mut bytes = field(&coded(&path));
            let mut authority = Authority::default();
            for piece in bytes.chunks_mut(size) {
                authority.mend(piece);
            }
            assert_eq!(bytes, expected, "{path} in pieces of {size}");
        }
    }
}

#[test]
fn a_host_and_what_makes_no_sense_stay() {
    let plain = connection(b"localhost");
    let mut bytes = plain.clone();
    Authority::default().mend(&mut bytes);
    assert_eq!(bytes, plain);

    // A number without an end, a padding longer than its frame.
    let preface = [b' '; PREFACE_BYTES].to_vec();
    let endless = frame(HEADERS, 0x4, &[0xff; 40]);
    let after = frame(HEADERS, 0x4, &[vec![0x41], text(PATH)].concat());
    let overlong = frame(HEADERS, 0x4 | PADDED, &[200, 0x41, 1, b'/']);
    for odd in [
        [preface.clone(), endless, after].concat(),
        [preface, overlong].concat(),
    ] {
        let mut bytes = odd.clone();
        Authority::default().mend(&mut bytes);
        assert_eq!(bytes, odd);
    }
}

#[test]
fn whatever_comes_keeps_its_length_and_ends() {
    proptest::proptest!(|(bytes: Vec<u8>, flags: u8)| {
        let mut stream = [vec![b' '; PREFACE_BYTES], frame(HEADERS, flags, &bytes)].concat();
        stream.extend(&bytes);
        Authority::default().mend(&mut stream);
        Authority::default().mend(&mut bytes.clone());
    });
}
