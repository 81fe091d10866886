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
mod tests;
