//! One entry of an allow or a deny list: a regular expression on the canonical
//! text of a host.

use std::fmt;

use regex_automata::meta::Regex;
use regex_syntax::{
    ParserBuilder,
    hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look},
};
use thiserror::Error;

/// The longest pattern, in bytes. Host names have 253.
pub const LONGEST_PATTERN: usize = 4096;

/// The largest automaton of one pattern, in bytes. `(?:a{1000}){1000}` needs
/// many MiB; what names hosts needs a few KiB.
const LARGEST_AUTOMATON: usize = 256 << 10;

/// Memory for states of one pattern that were met while matching, in bytes.
const LARGEST_CACHE: usize = 64 << 10;

/// How deep groups may be nested. The tree is walked by recursion.
const DEEPEST: u32 = 100;

/// A pattern that opens: it must match the whole host.
#[derive(Clone)]
pub struct AllowPattern(Compiled);

/// A pattern that closes: it may match anywhere in the host.
#[derive(Clone)]
pub struct DenyPattern(Compiled);

#[derive(Clone)]
struct Compiled {
    text: String,
    regex: Regex,
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// It would match everything.
    #[error("a pattern must not be empty")]
    Empty,
    /// Too much text.
    #[error("a pattern has at most {LONGEST_PATTERN} bytes; this one has {0}")]
    TooLong(usize),
    /// Not a regular expression.
    #[error("{reason}\n{drawing}", drawing = place)]
    Syntax {
        /// What is wrong.
        reason: String,
        /// Where.
        place: Place,
    },
    /// Names are matched as they travel, so that it could never match.
    #[error("hosts are matched in their ASCII form (`xn--…`), which has no `{}`\n{place}", .found.escape_debug())]
    NotAscii {
        /// The first such character.
        found: char,
        /// Where.
        place: Place,
    },
    /// A regular expression that takes too much memory.
    #[error("the pattern is too large once it is compiled; use fewer or smaller repetitions")]
    TooLarge,
}

/// A place in a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Characters of the pattern before it.
    pub column: usize,
    /// A piece of the pattern round it.
    line: String,
    /// Characters of `line` before it.
    before: usize,
    /// How many characters it covers, at least 1.
    width: usize,
}

impl Place {
    /// Characters of the pattern that are shown before and after the place.
    const AROUND: usize = 40;

    /// Of the bytes from `start` to `end`.
    fn new(pattern: &str, start: usize, end: usize) -> Self {
        let column = pattern[..start].chars().count();
        let skipped = column.saturating_sub(Self::AROUND);
        let covered = pattern[start..end].chars().count();
        let width = covered.clamp(1, Self::AROUND);
        let before = column - skipped;
        // A pattern may hold line breaks (`(?x)`); the drawing must not.
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let piece = pattern.chars().skip(skipped);
        let line = piece.take(before + width + Self::AROUND).map(shown);
        Self {
            column,
            line: line.collect(),
            before,
            width,
        }
    }
}

/// Two lines: the pattern, and carets below the place.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carets = "^".repeat(self.width);
        write!(f, "    {}\n    {:2$}{carets}", self.line, "", self.before)
    }
}

impl AllowPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`], with the place.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        // The anchors are put round the tree, not round the text: no comment,
        // flag, alternation or bracket of the pattern can reach them.
        let tree = Hir::concat(vec![
            Hir::look(Look::Start),
            parse(text)?,
            Hir::look(Look::End),
        ]);
        Compiled::new(text, tree).map(Self)
    }

    /// Whether it matches the whole of a canonical host.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        self.0.regex.is_match(host)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub(super) fn memory_usage(&self) -> usize {
        self.0.regex.memory_usage()
    }
}

impl DenyPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`], with the place.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Compiled::new(text, parse(text)?).map(Self)
    }

    /// Whether it matches anywhere in a canonical host.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        self.0.regex.is_match(host)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub(super) fn memory_usage(&self) -> usize {
        self.0.regex.memory_usage()
    }
}

impl fmt::Debug for AllowPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AllowPattern").field(&self.0.text).finish()
    }
}

impl fmt::Debug for DenyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DenyPattern").field(&self.0.text).finish()
    }
}

impl Compiled {
    fn new(text: &str, tree: Hir) -> Result<Self, PatternError> {
        let config = Regex::config()
            .nfa_size_limit(Some(LARGEST_AUTOMATON))
            .onepass_size_limit(Some(LARGEST_CACHE))
            .hybrid_cache_capacity(LARGEST_CACHE)
            .dfa(false);
        let regex = Regex::builder()
            .configure(config)
            .build_from_hir(&only_ascii(tree))
            .map_err(|_| PatternError::TooLarge)?;
        Ok(Self {
            text: text.to_owned(),
            regex,
        })
    }
}

/// The tree of a pattern. Case never matters, as in host names.
fn parse(text: &str) -> Result<Hir, PatternError> {
    if text.is_empty() {
        return Err(PatternError::Empty);
    }
    if text.len() > LONGEST_PATTERN {
        return Err(PatternError::TooLong(text.len()));
    }
    if let Some((at, found)) = text.char_indices().find(|(_, c)| !c.is_ascii()) {
        let place = Place::new(text, at, at + found.len_utf8());
        return Err(PatternError::NotAscii { found, place });
    }
    let mut parser = ParserBuilder::new()
        .case_insensitive(true)
        .nest_limit(DEEPEST)
        .build();
    parser.parse(text).map_err(|error| {
        use regex_syntax::Error;
        let (reason, span) = match &error {
            Error::Parse(error) => (error.kind().to_string(), *error.span()),
            Error::Translate(error) => (error.kind().to_string(), *error.span()),
            other => (other.to_string(), regex_syntax::ast::Span::splat(start())),
        };
        let place = Place::new(text, span.start.offset, span.end.offset);
        PatternError::Syntax { reason, place }
    })
}

fn start() -> regex_syntax::ast::Position {
    regex_syntax::ast::Position::new(0, 1, 1)
}

/// The same tree with the characters of hosts alone. Hosts are ASCII, so it
/// matches the same ones, and `\w` is no longer hundreds of ranges large.
fn only_ascii(tree: Hir) -> Hir {
    match tree.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Class(Class::Unicode(mut class)) => {
            let ascii = ClassUnicodeRange::new('\0', '\x7f');
            class.intersect(&ClassUnicode::new([ascii]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(class) => Hir::class(class),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(only_ascii(*repetition.sub));
            Hir::repetition(repetition)
        }
        HirKind::Capture(mut capture) => {
            capture.sub = Box::new(only_ascii(*capture.sub));
            Hir::capture(capture)
        }
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(only_ascii).collect()),
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.into_iter().map(only_ascii).collect())
        }
    }
}

/// One line for a pattern that is a host name with a dot left unescaped
/// (`example.com`): the dot matches any character.
#[must_use]
pub fn dot_warning(pattern: &str) -> Option<String> {
    let inner = pattern.strip_prefix('^').unwrap_or(pattern);
    let inner = inner.strip_suffix('$').unwrap_or(inner);
    let name = inner.replace("\\.", ".");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let bare = inner.replace("\\.", "");
    if !bare.contains('.') || !name.chars().all(plain) {
        return None;
    }
    let escaped = name.replace('.', "\\.");
    Some(format!(
        "the dots of `{pattern}` match any character; to mean this host write `^{escaped}$`"
    ))
}
