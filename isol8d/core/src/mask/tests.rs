//! Masking as tables, and against a slow and obvious masker of whole buffers.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL};
use proptest::prelude::*;

use super::*;

fn secrets(values: &[&str]) -> Secrets {
    let named = values.iter().enumerate();
    let named = named.map(|(number, value)| (format!("S{number}"), Secret((*value).to_owned())));
    Secrets::new(&named.collect()).unwrap()
}

fn in_pieces<'a>(secrets: &Secrets, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut masker = secrets.masker();
    let mut out = Vec::new();
    for piece in pieces {
        masker.push(piece, &mut out);
    }
    masker.finish(&mut out);
    out
}

#[track_caller]
fn check(values: &[&str], text: &str, expected: &str) {
    let secrets = secrets(values);
    let show = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(secrets.mask_text(text), expected);
    for size in 1..text.len().clamp(1, 200) {
        let out = in_pieces(&secrets, text.as_bytes().chunks(size));
        assert_eq!(show(out), expected, "in pieces of {size}");
    }
    for at in 0..text.len() {
        let (before, after) = text.as_bytes().split_at(at);
        let out = in_pieces(&secrets, [before, after]);
        assert_eq!(show(out), expected, "cut at {at}");
    }
}

#[test]
fn a_value_is_masked_wherever_it_is_cut() {
    check(&["hunter22"], "it is hunter22.", "it is ***.");
    check(&["hunter22"], "hunter22hunter22", "******");
    check(&["hunter22"], "hunter2 hunter2", "hunter2 hunter2");
    check(&["hunter22"], "hunthunter22er22", "hunt***er22");
    check(&["aaaab"], "aaaaaaaab aaaaa", "aaaa*** aaaaa");
    check(&["h\u{fc}hn\u{e9}"], "das h\u{fc}hn\u{e9}!", "das ***!");
}

#[test]
fn the_longest_of_several_wins_and_no_end_shows() {
    check(&["pass", "password"], "passpassword pas", "****** pas");
    check(&["abcd", "cdef"], "abcdef", "***");
    check(&["abcd", "cdef", "efgh"], "xabcdefghx", "x***x");
    check(&["aaaa"], "aaaaaa", "***");
    check(&["bcde", "abcdefg"], "abcdef bcde abcdefg", "a***f *** ***");
}

#[test]
fn a_line_end_at_the_end_of_a_value_is_not_part_of_it() {
    check(&["token1\n"], "token1 token1\n", "*** ***\n");
    check(&["line1\nline2\r\n"], "line1\nline2 line1", "*** line1");
}

#[test]
fn base64_is_masked_at_every_offset() {
    let value = "s3cr3t-v4lue?>~";
    for before in 0..6 {
        let text = format!("{}{value}@host", "u".repeat(before));
        for encoding in [&BASE64, &BASE64URL, &BASE64_NOPAD] {
            let masked = secrets(&[value]).mask_text(&encoding.encode(text.as_bytes()));
            assert!(masked.contains("***"), "{masked}");
            // At most the character that a neighbour shares stays on each side.
            let left = masked.split("***").next().unwrap();
            assert!(left.len() <= before * 8 / 6 + 1, "{masked}");
        }
    }
}

fn wrapped(text: &str, columns: usize, end: &str) -> String {
    let encoded = BASE64.encode(text.as_bytes());
    let lines = encoded.as_bytes().chunks(columns);
    let lines: Vec<_> = lines
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    lines.join(end) + end
}

#[test]
fn base64_is_masked_across_the_ends_of_wrapped_lines() {
    let value = "0123456789abcdefghijABCDEFGHIJ";
    for columns in [64, 76] {
        for end in ["\n", "\r\n"] {
            for before in (0..120).step_by(7) {
                let text = format!("{}{value}{}", "u".repeat(before), "v".repeat(40));
                let text = format!("first\n{}", wrapped(&text, columns, end));
                let masked = secrets(&[value]).mask_text(&text);
                // 38 characters hold nothing but the value.
                let most = text.len() - 38 + MASK.len();
                assert!(masked.len() <= most, "{columns} {before}: {masked}");
                for cut in (60..text.len().min(150)).step_by(3) {
                    let (left, right) = text.as_bytes().split_at(cut);
                    let out = in_pieces(&secrets(&[value]), [left, right]);
                    assert_eq!(out, masked.as_bytes(), "{columns} {before} {cut}");
                }
            }
        }
    }
}

#[test]
fn a_long_value_is_masked_over_many_lines() {
    let value: String = (0..3000_u32)
        .filter_map(|n| char::from_u32(33 + n * 7 % 90))
        .collect();
    let text = wrapped(&format!("ab{value}cd"), 76, "\n");
    let masked = secrets(&[&value]).mask_text(&text);
    assert!(masked.len() < 14, "{masked}");
}

#[test]
fn only_what_may_become_a_value_is_held_back() {
    let secrets = secrets(&["hunter22"]);
    let mut masker = secrets.masker();
    let mut push = |text: &str| {
        let mut out = Vec::new();
        masker.push(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(push("Password: "), "Password: ");
    assert_eq!(push("hun"), "");
    assert_eq!(push("!"), "hun!");
    // A line end is held back with what it stands behind only where a tool
    // would have wrapped its base64.
    assert_eq!(push("a prompt\n"), "a prompt\n");
}

#[test]
fn what_is_held_back_comes_at_the_end() {
    assert_eq!(secrets(&["hunter22"]).mask_text("xhunter2"), "xhunter2");
}

#[test]
fn endless_overlaps_take_no_memory() {
    let mut masker = secrets(&["aaaa"]).masker();
    let mut out = Vec::new();
    for _ in 0..1000 {
        masker.push(&[b'a'; 1000], &mut out);
    }
    assert_eq!(out, MASK);
    let scan = masker.scan.as_ref().unwrap();
    assert!(scan.held.len() < 8 && scan.spans.len() < 8);
}

#[test]
fn bytes_pass_without_a_copy() {
    let mut masker = secrets(&["hunter22"]).masker();
    let bytes = Bytes::from_static(b"nothing to see, but hunt");
    let out = masker.push_bytes(bytes.clone());
    assert_eq!(out, "nothing to see, but ");
    assert_eq!(out.as_ptr(), bytes.as_ptr());
    assert_eq!(masker.push_bytes("er22 and more".into()), "*** and more");
    let bytes = Bytes::from_static(b"as it was");
    assert_eq!(masker.push_bytes(bytes.clone()).as_ptr(), bytes.as_ptr());

    let mut masker = Secrets::default().masker();
    assert_eq!(masker.push_bytes(bytes.clone()).as_ptr(), bytes.as_ptr());
}

#[test]
fn values_that_cannot_be_masked_are_refused() {
    let one = |value: &str| {
        let named = BTreeMap::from([("KEY".to_owned(), Secret(value.to_owned()))]);
        Secrets::new(&named).map(|_| ())
    };
    let short = Err(SecretError::TooShort("KEY".to_owned()));
    for value in ["", "abc", "abc\n", "a\r\n\r\n"] {
        assert_eq!(one(value), short, "{value:?}");
    }
    assert_eq!(one("abcd"), Ok(()));
    assert_eq!(one(&"x".repeat(MAX_SECRETS_BYTES)), Ok(()));
    let long = one(&"x".repeat(MAX_SECRETS_BYTES + 1));
    assert_eq!(long, Err(SecretError::TooLong));
    assert_eq!(format!("{:?}", secrets(&["hunter22"])), "***");
}

/// Every occurrence of every form, the obvious way.
fn slow_mask(values: &[String], text: &[u8]) -> Vec<u8> {
    let mut covered: Vec<(usize, usize)> = Vec::new();
    for value in values {
        let value = value.trim_end_matches(['\r', '\n']).as_bytes();
        find_all(text, value, |at| at, &mut covered);
        // Base64 as if wrapped lines had no ends.
        let kept: Vec<usize> = (0..text.len()).filter(|at| !is_wrap(text, *at)).collect();
        let joined: Vec<u8> = kept.iter().map(|at| text[*at]).collect();
        for form in encodings::base64(value) {
            find_all(&joined, &form, |at| kept[at], &mut covered);
        }
    }
    covered.sort_unstable();
    let mut out = Vec::new();
    let mut end = 0;
    for (from, to) in covered {
        if from >= end {
            out.extend_from_slice(&text[end..from]);
            out.extend_from_slice(MASK);
        }
        end = end.max(to);
    }
    out.extend_from_slice(&text[end..]);
    out
}

fn find_all(
    text: &[u8],
    form: &[u8],
    place: impl Fn(usize) -> usize,
    found: &mut Vec<(usize, usize)>,
) {
    for (at, window) in text.windows(form.len()).enumerate() {
        if window == form {
            found.push((place(at), place(at + form.len() - 1) + 1));
        }
    }
}

fn is_wrap(text: &[u8], at: usize) -> bool {
    let line = text[..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |before| before + 1);
    let column = at - line;
    match text[at] {
        b'\r' => column == 64 || column == 76,
        b'\n' => {
            let column = column - usize::from(column > 0 && text[at - 1] == b'\r');
            column == 64 || column == 76
        }
        _ => false,
    }
}

/// Values over a tiny alphabet, so that they overlap in every way.
fn values() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab]{4,7}|[a-c]{4}|[ab]{3}\n[ab]{2}", 1..4)
}

/// Text that holds values, beginnings of values, and their base64, wrapped or
/// not, between noise.
fn texts() -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
    let part = (0_usize..6, any::<prop::sample::Index>(), 0_usize..100);
    (values(), prop::collection::vec(part, 0..12)).prop_map(|(values, parts)| {
        let mut text = Vec::new();
        for (kind, which, size) in parts {
            let value = which.get(&values);
            let cut = size % value.len();
            match kind {
                0 => text.extend_from_slice(value.as_bytes()),
                1 => text.extend_from_slice(&value.as_bytes()[..cut]),
                2 => text.extend_from_slice(&value.as_bytes()[cut..]),
                3 => text.extend(std::iter::repeat_n(b'a', size % 9)),
                4 => {
                    let long = format!("{}{value}{value}", "z".repeat(size));
                    text.push(b'\n');
                    text.extend_from_slice(wrapped(&long, 76, "\n").as_bytes());
                }
                _ => text.extend_from_slice(BASE64URL.encode(value.as_bytes()).as_bytes()),
            }
        }
        (values, text)
    })
}

proptest! {
    #[test]
    fn any_cutting_gives_what_masking_the_whole_gives(
        (values, text) in texts(),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let refs: Vec<_> = values.iter().map(String::as_str).collect();
        let secrets = secrets(&refs);
        let expected = slow_mask(&values, &text);

        let mut masker = secrets.masker();
        let mut copied = Vec::new();
        let mut shared = secrets.masker();
        let mut passed = Vec::new();
        let mut rest = &text[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            masker.push(piece, &mut copied);
            passed.extend_from_slice(&shared.push_bytes(Bytes::copy_from_slice(piece)));
            // Nothing leaves that does not leave in the end.
            prop_assert!(expected.starts_with(&copied));
            rest = after;
        }
        masker.finish(&mut copied);
        shared.finish(&mut passed);
        prop_assert_eq!(String::from_utf8_lossy(&copied), String::from_utf8_lossy(&expected));
        prop_assert_eq!(String::from_utf8_lossy(&passed), String::from_utf8_lossy(&expected));
        prop_assert_eq!(in_pieces(&secrets, [&text[..]]), expected);
    }

    #[test]
    fn random_values_in_random_bytes_never_show(
        values in prop::collection::vec("[ -~]{4,40}[!-~]", 1..5),
        noise in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        size in 1_usize..64,
    ) {
        let refs: Vec<_> = values.iter().map(String::as_str).collect();
        let secrets = secrets(&refs);
        let mut text = noise;
        let place = at.index(text.len() + 1);
        text.splice(place..place, values.concat().into_bytes());
        let out = in_pieces(&secrets, text.chunks(size));
        prop_assert_eq!(&out, &slow_mask(&values, &text));
        for value in &values {
            let shows = out.windows(value.len()).any(|window| window == value.as_bytes());
            prop_assert!(!shows);
        }
    }
}
