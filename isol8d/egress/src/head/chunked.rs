//! The framing of a chunked body, checked byte for byte.
//!
//! ```text
//! Size ──CR──▶ SizeEnd ──LF──▶ Data ──all──▶ DataCr ──CR──▶ DataLf ──LF──▶ Size
//!                  └─ size 0 ─▶ Trailer ──empty line──▶ done
//! ```
//!
//! Extensions are refused: nobody sends them, and readers disagree about
//! where they end. Trailers are read, bounded, and dropped, as a proxy may.

use super::Fault;

/// More than any trailer in use; they are thrown away anyway.
const MAX_TRAILER_BYTES: usize = 8 << 10;

/// `usize::MAX` has 16 digits; more can only be leading zeros or an overflow.
const MAX_SIZE_DIGITS: u8 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailer {
        seen: usize,
        line: usize,
        after_cr: bool,
    },
}

/// Where in a chunked body we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunked(State);

/// What became of a piece of body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of the input was body.
    More,
    /// The body ended after so many bytes of the input.
    Done(usize),
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self(State::Size { digits: 0, size: 0 })
    }

    /// Checks `input` and appends to `out` the same body in its plainest form.
    pub(super) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, Fault> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if let State::Data { left } = self.0 {
                let rest = &input[at..];
                let take = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                out.extend_from_slice(&rest[..take]);
                at += take;
                let left = left - take as u64;
                self.0 = if left == 0 {
                    State::DataCr
                } else {
                    State::Data { left }
                };
                continue;
            }
            at += 1;
            if self.step(byte, out)? {
                return Ok(Progress::Done(at));
            }
        }
        Ok(Progress::More)
    }

    /// One byte of framing; true when it was the last of the body.
    fn step(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<bool, Fault> {
        self.0 = match (self.0, byte) {
            (State::Size { digits, size }, b'\r') if digits > 0 => State::SizeEnd { size },
            (State::Size { digits, size }, _) if digits < MAX_SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(Fault::Chunk)?;
                State::Size {
                    digits: digits + 1,
                    size: size * 16 + u64::from(digit),
                }
            }
            (State::SizeEnd { size }, b'\n') => {
                out.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                if size == 0 {
                    State::Trailer {
                        seen: 0,
                        line: 0,
                        after_cr: false,
                    }
                } else {
                    State::Data { left: size }
                }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                out.extend_from_slice(b"\r\n");
                State::Size { digits: 0, size: 0 }
            }
            (
                State::Trailer {
                    line: 0,
                    after_cr: true,
                    ..
                },
                b'\n',
            ) => {
                out.extend_from_slice(b"\r\n");
                return Ok(true);
            }
            (
                State::Trailer {
                    seen,
                    line,
                    after_cr,
                },
                _,
            ) => trailer(seen, line, after_cr, byte)?,
            _ => return Err(Fault::Chunk),
        };
        Ok(false)
    }
}

fn trailer(seen: usize, line: usize, after_cr: bool, byte: u8) -> Result<State, Fault> {
    let seen = seen + 1;
    if seen > MAX_TRAILER_BYTES {
        return Err(Fault::Chunk);
    }
    match (after_cr, byte) {
        (true, b'\n') => Ok(State::Trailer {
            seen,
            line: 0,
            after_cr: false,
        }),
        (false, b'\r') => Ok(State::Trailer {
            seen,
            line,
            after_cr: true,
        }),
        (false, b'\t' | 0x20..=0x7e | 0x80..) => Ok(State::Trailer {
            seen,
            line: line + 1,
            after_cr: false,
        }),
        _ => Err(Fault::Chunk),
    }
}
