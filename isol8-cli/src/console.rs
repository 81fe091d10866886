//! How isol8 speaks to the person: lines on stderr, colour on a terminal only.

use std::{
    fmt,
    io::{self, Write as _},
    time::Instant,
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use isol8_core::failure::Failure;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const NOTE: Style = AnsiColor::Cyan.on_default();
const FAINT: Style = Style::new().dimmed();

/// stderr, as isol8's own voice. A closed or full stderr is nobody's error.
#[derive(Debug)]
pub(crate) struct Console {
    debug: bool,
    started: Instant,
}

impl Console {
    /// With `debug`, [`Console::debug`] is heard.
    pub(crate) fn new(debug: bool) -> Self {
        Self {
            debug,
            started: Instant::now(),
        }
    }

    /// `error:`, then every `cause:`, then `hint:`.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.line(ERROR, "error", &failure.message);
        for cause in &failure.causes {
            self.line(FAINT, "cause", cause);
        }
        if let Some(delay) = failure.retry_after {
            let text = format!("try again in {} ms", delay.as_millis());
            self.line(NOTE, "hint", &text);
        }
        if let Some(hint) = &failure.hint {
            self.line(NOTE, "hint", hint);
        }
    }

    /// Something that the person should look at; the command goes on.
    pub(crate) fn warning(&self, text: &str) {
        self.line(WARNING, "warning", text);
    }

    /// Something worth knowing.
    pub(crate) fn note(&self, text: &str) {
        self.line(NOTE, "note", text);
    }

    /// A line without a label, such as progress.
    pub(crate) fn say(&self, text: &str) {
        self.write(format_args!("{}\n", printable(text)));
    }

    /// A question: the answer is typed on the same line.
    pub(crate) fn prompt(&self, text: &str) {
        self.write(format_args!("{text}"));
    }

    /// What isol8 is doing, for `--debug`. Never code, values or secrets.
    pub(crate) fn debug(&self, what: fmt::Arguments<'_>) {
        if self.debug {
            let elapsed = self.started.elapsed().as_secs_f64() * 1e3;
            self.write(format_args!(
                "{FAINT}[DEBUG] {elapsed:.2} ms {}{FAINT:#}\n",
                printable(&what.to_string())
            ));
        }
    }

    fn line(&self, style: Style, label: &str, text: &str) {
        self.write(format_args!(
            "{style}{label}:{style:#} {}\n",
            printable(text)
        ));
    }

    /// One write per line: lines of several processes do not mix.
    fn write(&self, text: fmt::Arguments<'_>) {
        let mut text = text.to_string();
        if AutoStream::choice(&io::stderr()) == ColorChoice::Never {
            text = strip_str(&text).to_string();
        }
        drop(io::stderr().write_all(text.as_bytes()));
    }
}

/// The text with control characters made visible, so that a file name or an
/// engine's message cannot steer the terminal. Further lines are indented.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' => clean.push_str("\n  "),
            '\t' => clean.push(c),
            '\r' => {}
            c if c.is_control() => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    clean
}

/// A name from inside of a sandbox on one line: what steers a terminal or turns
/// the text around is escaped, and so is what is no text.
pub(crate) fn visible(name: &[u8]) -> String {
    let mut clean = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => clean.push_str("\\\\"),
                c if c.is_control() || is_invisible(c) => clean.extend(c.escape_default()),
                c => clean.push(c),
            }
        }
        for byte in chunk.invalid() {
            clean.extend(byte.escape_ascii().map(char::from));
        }
    }
    clean
}

/// Marks of direction, joiners, separators of lines: they change how the rest is
/// shown and are not seen themselves.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a\x1b[2Jb\u{9b}c\x07"),
            "a\\u{1b}[2Jb\\u{9b}c\\u{7}"
        );
        assert_eq!(printable("one\r\ntwo\n"), "one\n  two");
        assert_eq!(printable("日本\tx"), "日本\tx");
    }

    #[test]
    fn a_name_from_inside_is_one_line_of_what_can_be_seen() {
        let cases: [(&[u8], &str); 6] = [
            (b"a.txt", "a.txt"),
            ("日本 x".as_bytes(), "日本 x"),
            (b"a\nb\x1b[2J", "a\\nb\\u{1b}[2J"),
            (b"a\\nb", "a\\\\nb"),
            (b"\xff\xfe!", "\\xff\\xfe!"),
            ("gnp.\u{202e}exe".as_bytes(), "gnp.\\u{202e}exe"),
        ];
        for (name, shown) in cases {
            assert_eq!(visible(name), shown);
        }
    }
}
