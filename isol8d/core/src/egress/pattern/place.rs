//! Where in a pattern an error is.

use std::fmt;

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
    pub(super) fn new(pattern: &str, start: usize, end: usize) -> Self {
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
