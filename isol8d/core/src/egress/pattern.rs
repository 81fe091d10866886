//! One entry of an allow or a deny list: a regular expression on the canonical
//! text of a host.

use std::fmt;

use regex_automata::meta::Regex;
use regex_syntax::{
    ParserBuilder,
    hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look},
};
use thiserror::Error;

use super::host::Host;

mod place;

pub use place::Place;

/// The longest pattern, in bytes. Host names have 253.
pub const LONGEST_PATTERN: usize = 4096;

/// The largest automaton of one pattern, in bytes. `(?:a{1000}){1000}` needs
/// many MiB; what names hosts needs a few KiB.
const LARGEST_PATTERN: usize = 512 << 10;

/// The largest automaton of a list, in bytes. A thousand host names of common
/// length need 2 to 3 MiB; the worst list of this size judges a host of 253
/// bytes in tens of milliseconds, a common one in microseconds.
const LARGEST_LIST: usize = 4 << 20;

/// Memory for states that were met while matching, in bytes. One process keeps
/// the lists of every sandbox.
const CACHE: usize = 256 << 10;

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
    tree: Hir,
    regex: Regex,
}

/// All patterns of a list as one automaton: memory and time have one bound,
/// however many there are.
#[derive(Clone)]
pub(super) struct PatternList(Option<Regex>);

/// The list is too large once it is compiled.
#[derive(Debug)]
pub(super) struct ListTooLarge;

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
    #[error("{reason}\n{place}")]
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
    /// Classes of all writing in the world say nothing about ASCII text, and
    /// take long to compile.
    #[error("hosts are matched in their ASCII form; `\\p` says nothing about it\n{place}")]
    Property {
        /// Where.
        place: Place,
    },
    /// A regular expression that takes too much memory.
    #[error("the pattern is too large once it is compiled; use fewer or smaller repetitions")]
    TooLarge,
}

impl PatternError {
    /// Where in the pattern, if it is at one place.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Syntax { place, .. }
            | Self::NotAscii { place, .. }
            | Self::Property { place } => Some(place),
            Self::Empty | Self::TooLong(_) | Self::TooLarge => None,
        }
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

    /// Whether it matches the whole of a host.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        self.0.regex.is_match(host.to_string().as_str())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
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

    /// Whether it matches anywhere in a host.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        self.0.regex.is_match(host.to_string().as_str())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
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
        let tree = of_hosts(tree);
        let regex = automaton(&tree, LARGEST_PATTERN).ok_or(PatternError::TooLarge)?;
        let text = text.to_owned();
        Ok(Self { text, tree, regex })
    }
}

impl PatternList {
    pub(super) fn allow(patterns: Vec<AllowPattern>) -> Result<Self, ListTooLarge> {
        Self::new(patterns.into_iter().map(|AllowPattern(one)| one.tree))
    }

    pub(super) fn deny(patterns: Vec<DenyPattern>) -> Result<Self, ListTooLarge> {
        Self::new(patterns.into_iter().map(|DenyPattern(one)| one.tree))
    }

    fn new(trees: impl Iterator<Item = Hir>) -> Result<Self, ListTooLarge> {
        let trees: Vec<Hir> = trees.collect();
        if trees.is_empty() {
            return Ok(Self(None));
        }
        let any = Hir::alternation(trees);
        let regex = automaton(&any, LARGEST_LIST).ok_or(ListTooLarge)?;
        Ok(Self(Some(regex)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of the patterns matches this canonical text.
    pub(super) fn matches(&self, host: &str) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(host))
    }
}

/// The automaton itself would fill pages.
impl fmt::Debug for PatternList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "[]" } else { "[..]" })
    }
}

/// `None` if it is larger than this.
fn automaton(tree: &Hir, largest: usize) -> Option<Regex> {
    let config = Regex::config()
        .nfa_size_limit(Some(largest))
        .onepass(false)
        .dfa(false)
        .hybrid_cache_capacity(CACHE);
    Regex::builder().configure(config).build_from_hir(tree).ok()
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
    if let Some(at) = text.find("\\p").or_else(|| text.find("\\P")) {
        let place = Place::new(text, at, at + 2);
        return Err(PatternError::Property { place });
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

/// The same tree without the characters that no canonical host has: what is not
/// ASCII, and capitals (case was folded before, so that their small letters are
/// there). It matches the same hosts, and `\w` is no longer hundreds of ranges
/// large.
fn of_hosts(tree: Hir) -> Hir {
    match tree.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Class(Class::Unicode(mut class)) => {
            let before = ClassUnicodeRange::new('\0', '@');
            let behind = ClassUnicodeRange::new('[', '\x7f');
            class.intersect(&ClassUnicode::new([before, behind]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(class) => Hir::class(class),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(of_hosts(*repetition.sub));
            Hir::repetition(repetition)
        }
        // A group is only its contents.
        HirKind::Capture(capture) => of_hosts(*capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(of_hosts).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(of_hosts).collect()),
    }
}

/// One line for a pattern that reads like a host name and has a dot left
/// unescaped (`example.com`), which matches any character. `None` for a pattern
/// that says what it means (`^api\.example\.com$`) or is no host name at all.
#[must_use]
pub fn dot_warning(pattern: &str) -> Option<String> {
    let start = usize::from(pattern.starts_with('^'));
    let end = pattern.len() - usize::from(pattern.ends_with('$') && pattern.len() > start);
    let mut escaped = String::from(&pattern[..start]);
    let (mut bare, mut letters) = (false, false);
    let mut rest = &pattern[start..end];
    while let Some(c) = rest.chars().next() {
        let wildcard = rest.starts_with(".*") || rest.starts_with(".+");
        let length = match c {
            '.' if wildcard => 2,
            '.' => {
                bare = true;
                escaped.push('\\');
                1
            }
            '\\' if rest.starts_with("\\.") => 2,
            _ if c.is_ascii_alphanumeric() || c == '-' || c == '_' => {
                letters = true;
                1
            }
            _ => return None,
        };
        escaped.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    escaped.push_str(&pattern[end..]);
    (bare && letters).then(|| {
        format!("in `{pattern}` each `.` matches any character; for a dot write `{escaped}`")
    })
}

#[cfg(test)]
mod tests;
