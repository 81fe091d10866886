//! Bytes in pieces as text in pieces: a character that is cut in two waits for its
//! other half.

/// The longest beginning of a character that is not whole.
const MOST_WAITING: usize = 3;

/// A piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Where the text is not all that there was.
    pub(super) bytes: Option<Vec<u8>>,
}

impl Piece {
    fn of(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self {
                text: text.to_owned(),
                bytes: None,
            },
            Err(_) => Self {
                text: String::from_utf8_lossy(bytes).into_owned(),
                bytes: Some(bytes.to_vec()),
            },
        }
    }
}

/// One stream of output.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    waiting: Vec<u8>,
}

impl Decoder {
    /// What can be said after these bytes: one piece or none.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend_from_slice(bytes);
        self.waiting = all.split_off(all.len() - unfinished(&all));
        match all.is_empty() {
            true => Vec::new(),
            false => vec![Piece::of(&all)],
        }
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        match std::mem::take(&mut self.waiting) {
            left if left.is_empty() => Vec::new(),
            left => vec![Piece::of(&left)],
        }
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=MOST_WAITING.min(bytes.len()) {
        let end = &bytes[bytes.len() - back..];
        if end[0] & 0xc0 == 0x80 {
            continue;
        }
        // `error_len` is missing where more bytes could still make it whole.
        return match str::from_utf8(end) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => back,
            _ => 0,
        };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pieces of this text, cut at every place.
    #[track_caller]
    fn cut_anywhere(bytes: &[u8]) {
        for at in 0..=bytes.len() {
            let mut decoder = Decoder::default();
            let mut pieces = decoder.push(&bytes[..at]);
            pieces.extend(decoder.push(&bytes[at..]));
            pieces.extend(decoder.finish());
            let exact: Vec<u8> = pieces
                .iter()
                .flat_map(|piece| {
                    piece
                        .bytes
                        .clone()
                        .unwrap_or(piece.text.clone().into_bytes())
                })
                .collect();
            assert_eq!(exact, bytes, "cut at {at}");
            if str::from_utf8(bytes).is_ok() {
                assert!(
                    pieces.iter().all(|piece| piece.bytes.is_none()),
                    "cut at {at}"
                );
            }
        }
    }

    #[test]
    fn characters_are_never_cut_in_two() {
        cut_anywhere("aé€😀z".as_bytes());
        cut_anywhere("😀".as_bytes());
        cut_anywhere(b"");
    }

    #[test]
    fn what_is_no_text_keeps_its_bytes() {
        cut_anywhere(b"\xff\xfe\x00");
        cut_anywhere(b"a\xf0\x9f");
        cut_anywhere(b"\x80\x80\x80\x80\x80");
        cut_anywhere(b"\xe2\x28\xa1");
        let mut decoder = Decoder::default();
        let pieces = decoder.push(b"a\xff");
        let expected = Piece {
            text: "a\u{fffd}".to_owned(),
            bytes: Some(b"a\xff".to_vec()),
        };
        assert_eq!(pieces, [expected]);
    }
}
