//! Quantities with their units.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A number of bytes. Written as `512m`: k, m, g, t are powers of 1024, an
/// optional `b`, `i` or `ib` may follow, a bare number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Why a size was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseByteSizeError {
    /// Not a number with an optional unit.
    #[error("`{0}` is not a size; write it like `512m` or `2g`")]
    Malformed(String),
    /// More than 2^63 bytes.
    #[error("`{0}` is too large")]
    TooLarge(String),
    /// Zero means nothing here.
    #[error("a size must be more than 0")]
    Zero,
}

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many mebibytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib * 1024 * 1024)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseByteSizeError::Malformed(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let digits_end = lower
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(lower.len());
        let (digits, unit) = lower.split_at(digits_end);
        if digits.is_empty() {
            return Err(malformed());
        }
        let power = unit.strip_suffix('b').unwrap_or(unit);
        let shift = match power.strip_suffix('i').unwrap_or(power) {
            "" if power.is_empty() => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(malformed()),
        };
        let too_large = || ParseByteSizeError::TooLarge(text.to_owned());
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        let bytes = number
            .checked_mul(1 << shift)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .ok_or_else(too_large)?;
        if bytes == 0 {
            return Err(ParseByteSizeError::Zero);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(40, "t"), (30, "g"), (20, "m"), (10, "k")];
        let exact = UNITS
            .iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Processor time per wall time, in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CpuMillis(u32);

/// Why a number of cores was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a number of cores between 0.01 and 1024; write it like `1` or `0.5`")]
pub struct ParseCpuError(String);

impl CpuMillis {
    /// One whole core.
    pub const ONE: Self = Self(1000);
    /// The kernel's quota takes no less than 1 ms in 100 ms.
    pub const MIN: u32 = 10;
    /// More cores than any machine that this runs on.
    pub const MAX: u32 = 1_024_000;

    /// Thousandths of a core; `None` outside 0.01 to 1024 cores.
    #[must_use]
    pub fn new(millis: u32) -> Option<Self> {
        (Self::MIN..=Self::MAX)
            .contains(&millis)
            .then_some(Self(millis))
    }

    /// Thousandths of a core.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.0
    }
}

impl FromStr for CpuMillis {
    type Err = ParseCpuError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseCpuError(text.to_owned());
        let cores: f64 = text.trim().parse().map_err(|_| wrong())?;
        let millis = (cores * 1000.0).round();
        if !(f64::from(Self::MIN)..=f64::from(Self::MAX)).contains(&millis) {
            return Err(wrong());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was just checked"
        )]
        let millis = millis as u32;
        Ok(Self(millis))
    }
}

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

/// A bound on processes and threads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pids(u32);

impl Pids {
    /// More than a kernel hands out by default.
    pub const MAX: u32 = 32_768;

    /// `None` for 0 and for more than 32768.
    #[must_use]
    pub fn new(count: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&count).then_some(Self(count))
    }

    /// The count.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn size(text: &str, bytes: Option<u64>) {
        let parsed = text.parse::<ByteSize>().ok().map(ByteSize::as_bytes);
        assert_eq!(parsed, bytes, "{text}");
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        size("512m", Some(512 << 20));
        size("512M", Some(512 << 20));
        size("512mb", Some(512 << 20));
        size("512MiB", Some(512 << 20));
        size("512Mi", Some(512 << 20));
        size("1g", Some(1 << 30));
        size("1048576", Some(1 << 20));
        size("100b", Some(100));
        size("2t", Some(2 << 40));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "m", "-1", "1e309", "1.5g", "0", "12x", "i", "5i", "5ib", "5mbb", "5mii", "5bm",
            "9999999t", "1 g b",
        ] {
            size(text, None);
        }
    }

    #[test]
    fn sizes_print_as_they_are_typed() {
        assert_eq!(ByteSize::mib(512).to_string(), "512m");
        assert_eq!(ByteSize::bytes(1000).to_string(), "1000");
        assert_eq!(ByteSize::mib(2048).to_string(), "2g");
    }

    #[test]
    fn cores_may_be_fractions() {
        assert_eq!(
            "0.5".parse::<CpuMillis>().map(CpuMillis::as_millis),
            Ok(500)
        );
        for text in ["0", "-1", "nan", "inf", "1e9", "x", ""] {
            assert!(text.parse::<CpuMillis>().is_err(), "{text}");
        }
    }
}
