//! The guard that reads every request head before the HTTP library does.

use isol8_core::egress::{host::Host, record::CUT};
use isol8_egress::head::{Event, Framing, Head, HeadGuard, MAX_HEAD_BYTES, Target};

/// How it all ended, comparable between two ways to cut the same bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    events: Vec<String>,
    out: Vec<u8>,
    consumed: usize,
    done: bool,
}

/// The first byte says where the rest is cut; what is seen does not depend on
/// it, and nothing that was refused goes on.
///
/// # Panics
/// When that does not hold.
pub fn head(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = feed([bytes].into_iter());
    let cut = usize::from(*cut).min(bytes.len());
    let (first, second) = bytes.split_at(cut);
    assert_eq!(feed([first, second].into_iter()), whole);
    assert_eq!(feed(bytes.chunks(1)), whole);
}

fn feed<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Seen {
    let mut guard = HeadGuard::new();
    let mut seen = Seen::default();
    let mut refused = false;
    for mut piece in pieces {
        while !piece.is_empty() {
            let before = seen.out.len();
            let fed = guard.feed(piece, &mut seen.out);
            assert!(fed.consumed <= piece.len());
            seen.consumed += fed.consumed;
            piece = &piece[fed.consumed..];
            let added = &seen.out[before..];
            assert!(!refused || (added.is_empty() && fed.event.is_none()));
            match fed.event {
                Some(event) => {
                    refused |= !matches!(event, Event::Head(_));
                    seen.events.push(describe(&event, added));
                }
                // A tunnel begins: the rest is for somebody else.
                None if fed.consumed == 0 => {
                    assert!(guard.is_done());
                    break;
                }
                None => {}
            }
        }
    }
    assert!(!refused || guard.is_done());
    seen.done = guard.is_done();
    seen
}

fn describe(event: &Event, added: &[u8]) -> String {
    match event {
        Event::Head(head) => {
            check(head, added);
            format!("{head:?}")
        }
        Event::Refused(refused) => {
            let shown = [&refused.method, &refused.host];
            // Beside the mark of a text that was cut.
            let printable = |text: &&String| {
                let text = text.strip_suffix(CUT).unwrap_or(text);
                text.bytes().all(|byte| matches!(byte, 0x20..0x7f))
            };
            assert!(shown.iter().all(printable), "{refused:?}");
            assert!(!refused.fault.to_string().contains('\n'));
            format!("{refused:?}")
        }
        // How much of a broken body went on before depends on the cuts.
        Event::BrokenBody(fault) => format!("{fault:?}"),
    }
}

/// A head that passed carries its own framing alone and no field of a hop.
fn check(head: &Head, added: &[u8]) {
    let canonical = head.target.host().to_string();
    assert_eq!(Host::parse(&canonical).as_ref(), Ok(head.target.host()));
    assert_ne!(head.target.port(), 0);
    if let Target::Tunnel { .. } = head.target {
        assert_eq!(head.framing, Framing::Length(0));
    }
    for name in head.headers.keys() {
        let name = name.as_str();
        let hop = [
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "host",
            "content-length",
        ];
        assert!(
            !hop.contains(&name) && !name.starts_with("proxy-"),
            "{name}"
        );
    }
    // The head that goes on begins after what is left of the body before it.
    let text = added.windows(4).rposition(|four| four == b"\r\n\r\n");
    assert!(text.is_some_and(|at| at + 4 == added.len() && at < MAX_HEAD_BYTES));
}
