//! Lets in clients that call the daemon by the path of its socket.
//!
//! The gRPC libraries of Python, C++, Java and others send that path as the
//! `:authority` of a request. It is no host name, and the HTTP/2 library refuses
//! such a request before any service sees it. Nobody here reads the authority (the
//! kernel says who asks), so each character of it that no host name has becomes one
//! that it may have. That happens in place: lengths stay as they are, so that the
//! header tables (HPACK) of both ends go on in step.
//!
//! ```text
//! preface ─▶ head of a frame ─▶ (padding length) ─▶ (priority) ─▶ header block ─▶ rest ─┐
//!                ▲    └─ any other frame ────────────────────────────────────────▶ rest ─┤
//!                └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What is not understood here goes on as it came, and the library judges it.

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const PRIORITY_BYTES: usize = 5;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

const NAME: &[u8] = b":authority";
/// Its place in the static table of HPACK.
const NAME_INDEX: u64 = 1;

/// What has come of a connection so far. It may come in pieces of any size.
#[derive(Debug)]
pub(crate) struct Authority {
    at: At,
    field: Field,
}

/// A place in the stream of frames; `left` counts bytes.
#[derive(Debug, Clone, Copy)]
enum At {
    Preface {
        left: usize,
    },
    Head {
        bytes: [u8; HEAD_BYTES],
        has: usize,
    },
    PadLength {
        priority: bool,
        left: usize,
    },
    Block {
        skip: usize,
        left: usize,
        padding: usize,
    },
    Rest {
        left: usize,
    },
}

/// A place in a header block.
#[derive(Debug, Clone, Copy)]
enum Field {
    Start,
    Number {
        of: Of,
        value: u64,
        shift: u32,
    },
    NameLength,
    Name {
        left: u64,
        ours: bool,
    },
    ValueLength {
        ours: bool,
    },
    Value {
        left: u64,
        text: Text,
    },
    /// Nothing more of this connection is looked at.
    Unknown,
}

/// What a number counts.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// An entry of a table, or a table's size: nothing belongs to it.
    Whole,
    NameIndex,
    Name {
        plain: bool,
    },
    Value {
        text: Text,
    },
}

/// How a value is written.
#[derive(Debug, Clone, Copy)]
enum Text {
    /// Of another field, or not understood.
    Alien,
    Plain,
    /// In the code of HPACK, of which these bits of a character have come.
    Coded {
        bits: u32,
        count: u32,
    },
}

impl Default for Authority {
    fn default() -> Self {
        Self {
            at: At::Preface {
                left: PREFACE_BYTES,
            },
            field: Field::Start,
        }
    }
}

impl Authority {
    /// Changes what has just come of the authorities among these bytes.
    pub(crate) fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let took = match self.at {
                At::Preface { left } => {
                    let took = left.min(bytes.len());
                    self.at = match left - took {
                        0 => HEAD,
                        left => At::Preface { left },
                    };
                    took
                }
                At::Rest { left } => {
                    let took = left.min(bytes.len());
                    self.rest(left - took);
                    took
                }
                At::Head { .. } => {
                    self.head(bytes[0]);
                    1
                }
                At::PadLength { priority, left } => {
                    self.block(usize::from(bytes[0]), priority, left - 1);
                    1
                }
                At::Block { .. } => {
                    self.fragment(&mut bytes[0]);
                    1
                }
            };
            bytes = &mut bytes[took..];
        }
    }

    fn head(&mut self, byte: u8) {
        let At::Head { mut bytes, has } = self.at else {
            return;
        };
        bytes[has] = byte;
        if has + 1 < HEAD_BYTES {
            self.at = At::Head {
                bytes,
                has: has + 1,
            };
            return;
        }
        let [a, b, c, kind, flags, ..] = bytes;
        let left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let priority = flags & PRIORITY != 0;
        match kind {
            HEADERS => {
                // Each block begins with a whole field.
                if !matches!(self.field, Field::Unknown) {
                    self.field = Field::Start;
                }
                if flags & PADDED != 0 && left > 0 {
                    self.at = At::PadLength { priority, left };
                } else {
                    self.block(0, priority, left);
                }
            }
            CONTINUATION => self.block(0, false, left),
            _ => self.rest(left),
        }
    }

    fn block(&mut self, padding: usize, priority: bool, left: usize) {
        let skip = if priority { PRIORITY_BYTES } else { 0 };
        if left <= skip + padding || matches!(self.field, Field::Unknown) {
            self.rest(left);
        } else {
            self.at = At::Block {
                skip,
                left,
                padding,
            };
        }
    }

    fn rest(&mut self, left: usize) {
        self.at = if left == 0 { HEAD } else { At::Rest { left } };
    }

    fn fragment(&mut self, byte: &mut u8) {
        let At::Block {
            skip,
            left,
            padding,
        } = self.at
        else {
            return;
        };
        if skip == 0 {
            self.field = self.field.after(byte);
        }
        let left = left - 1;
        if left == padding {
            self.rest(padding);
        } else {
            self.at = At::Block {
                skip: skip.saturating_sub(1),
                left,
                padding,
            };
        }
    }
}

const HEAD: At = At::Head {
    bytes: [0; HEAD_BYTES],
    has: 0,
};

impl Field {
    /// Where the block stands behind this byte, which is changed if it must be.
    fn after(self, byte: &mut u8) -> Self {
        match self {
            Self::Start if *byte & 0x80 != 0 => number(Of::Whole, *byte, 7),
            Self::Start if *byte & 0x40 != 0 => number(Of::NameIndex, *byte, 6),
            Self::Start if *byte & 0x20 != 0 => number(Of::Whole, *byte, 5),
            Self::Start => number(Of::NameIndex, *byte, 4),
            // A number of more than this is none of ours.
            Self::Number { shift: 35.., .. } | Self::Unknown => Self::Unknown,
            Self::Number { of, value, shift } => {
                let value = value + (u64::from(*byte & 0x7f) << shift);
                if *byte & 0x80 != 0 {
                    let shift = shift + 7;
                    return Self::Number { of, value, shift };
                }
                counted(of, value)
            }
            Self::NameLength => {
                let plain = *byte & 0x80 == 0;
                number(Of::Name { plain }, *byte, 7)
            }
            Self::Name { left, ours } => {
                let place = usize::try_from(left).map_or(0, |left| NAME.len().saturating_sub(left));
                let ours = ours && NAME[place] == *byte;
                match left {
                    1 => Self::ValueLength { ours },
                    _ => Self::Name {
                        left: left - 1,
                        ours,
                    },
                }
            }
            Self::ValueLength { ours } => {
                let text = match (ours, *byte & 0x80 == 0) {
                    (false, _) => Text::Alien,
                    (true, true) => Text::Plain,
                    (true, false) => Text::Coded { bits: 0, count: 0 },
                };
                number(Of::Value { text }, *byte, 7)
            }
            Self::Value { left, text } => {
                let text = text.after(byte);
                match left {
                    1 => Self::Start,
                    _ => Self::Value {
                        left: left - 1,
                        text,
                    },
                }
            }
        }
    }
}

/// A number that begins in the low bits of a byte.
fn number(of: Of, byte: u8, bits: u32) -> Field {
    let most = (1_u8 << bits) - 1;
    let value = byte & most;
    if value < most {
        return counted(of, u64::from(value));
    }
    Field::Number {
        of,
        value: u64::from(value),
        shift: 0,
    }
}

const fn counted(of: Of, value: u64) -> Field {
    match (of, value) {
        (Of::Whole, _) | (Of::Value { .. }, 0) => Field::Start,
        (Of::NameIndex, 0) => Field::NameLength,
        (Of::NameIndex, index) => Field::ValueLength {
            ours: index == NAME_INDEX,
        },
        (Of::Name { .. }, 0) => Field::ValueLength { ours: false },
        (Of::Name { plain }, left) => Field::Name {
            left,
            ours: plain && left == NAME.len() as u64,
        },
        (Of::Value { text }, left) => Field::Value { left, text },
    }
}

impl Text {
    /// How it goes on behind this byte, which is changed if it must be.
    fn after(self, byte: &mut u8) -> Self {
        match self {
            Self::Alien => Self::Alien,
            Self::Plain => {
                if !byte.is_ascii_alphanumeric() && *byte != b'.' {
                    *byte = b'-';
                }
                Self::Plain
            }
            Self::Coded { .. } => {
                let mut text = self;
                for place in (0..8).rev() {
                    let mut bit = *byte >> place & 1;
                    text = text.after_bit(&mut bit);
                    *byte = *byte & !(1 << place) | bit << place;
                }
                text
            }
        }
    }

    /// The code is such that what is wrong can be told from the bits before, and
    /// becomes a character of the same length when the bits that follow are ones:
    /// `%` and `-` become `.`, `/` becomes `5` (`3` and `4` do too), `=` becomes
    /// `b` (`A` and `_` do too), and `:` becomes `B`. Nobody reads it.
    fn after_bit(self, bit: &mut u8) -> Self {
        let Self::Coded { bits, count } = self else {
            return self;
        };
        let wrong = match count {
            4 => matches!(bits, 0b0101 | 0b0110 | 0b1000),
            5 => matches!(bits, 0b01011 | 0b01101 | 0b10001),
            6 => bits == 0b10_1110,
            _ => false,
        };
        if wrong {
            *bit = 1;
        }
        let (bits, count) = (bits << 1 | u32::from(*bit), count + 1);
        let is_whole = match count {
            5 => bits <= 0b0_1001,
            6 => (0b01_0100..=0b10_1101).contains(&bits),
            7 => (0b101_1100..=0b111_1011).contains(&bits),
            8 => (0b1111_1000..=0b1111_1101).contains(&bits),
            _ => false,
        };
        match count {
            _ if is_whole => Self::Coded { bits: 0, count: 0 },
            // Longer ones do not stand in paths, nor does this name them right.
            8.. => Self::Alien,
            _ => Self::Coded { bits, count },
        }
    }
}

#[cfg(test)]
mod tests {
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
}
