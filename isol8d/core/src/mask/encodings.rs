//! The base64 of a value inside something longer.

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};

/// The characters that `value` alone decides when something that holds it is
/// encoded. Base64 takes three bytes at a time, so there are three ways that the
/// value can lie; at both ends a character may belong to a neighbour too, and is
/// left out.
pub(super) fn base64(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for before in 0..3_usize {
        let mut padded = vec![0; before];
        padded.extend_from_slice(value);
        let first = (before * 8).div_ceil(6);
        let end = padded.len() * 8 / 6;
        for encoding in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
            let text = encoding.encode(&padded);
            forms.push(text.as_bytes()[first..end].to_vec());
        }
    }
    forms.sort_unstable();
    forms.dedup();
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_that_a_value_can_lie_is_covered() {
        for value in [
            "abcd",
            "pass?>word~",
            "0123456789abcdef",
            "\u{fc}ber-geheim",
        ] {
            let forms = base64(value.as_bytes());
            for before in 0..7 {
                for after in 0..4 {
                    let text = format!("{}{value}{}", "x".repeat(before), "~".repeat(after));
                    for encoding in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
                        let encoded = encoding.encode(text.as_bytes());
                        let found = forms.iter().any(|form| {
                            let form = std::str::from_utf8(form).unwrap();
                            encoded.contains(form)
                        });
                        assert!(found, "{before} {after} {encoded}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_form_is_shorter_than_what_identifies_it() {
        assert!(base64(b"abcd").iter().all(|form| form.len() >= 4));
    }
}
