//! Texts with a meaning: they check themselves while they are read, so that an
//! error carries the line where they stand.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};
use thiserror::Error as ThisError;

macro_rules! text_value {
    ($name:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// Why a text is not one of the values below.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum ValueError {
    /// Not a regular expression.
    #[error("`{pattern}` is not a regular expression: {why}")]
    Pattern {
        /// As it was written.
        pattern: String,
        /// Where it goes wrong.
        why: String,
    },
    /// Not a range of addresses.
    #[error("`{0}` is not a range of addresses; write it like `10.0.0.0/8` or `fd00::/8`")]
    Range(String),
    /// Not a path.
    #[error("a path must not be empty and must not hold a NUL byte")]
    Path,
    /// Not a package name.
    #[error("`{0}` is not a package name")]
    Package(String),
    /// Not a URL of the kinds that are taken.
    #[error("`{value}` is not a URL; write it like `{example}`")]
    Url {
        /// As it was written.
        value: String,
        /// A good one.
        example: &'static str,
    },
    /// Not a name.
    #[error("`{0}` is not a name")]
    Name(String),
}

/// A regular expression for host names. Known to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match regex::Regex::new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(ValueError::Pattern {
                pattern: text.to_owned(),
                why: last_line(&error.to_string()),
            }),
        }
    }
}

/// The parser draws the place over several lines; the last one says what it is.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

text_value!(Pattern, { "type": "string", "format": "regex" });

/// A range of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    first: IpAddr,
    prefix: u8,
}

impl IpRange {
    /// Whether the range holds this address. The two families never meet.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let apart = u32::from(first) ^ u32::from(address);
                apart.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let apart = u128::from(first) ^ u128::from(address);
                apart.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

impl FromStr for IpRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ValueError::Range(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest: u8 = if first.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                prefix.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        if prefix > longest {
            return Err(wrong());
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

text_value!(IpRange, { "type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$" });

/// A path as it was written: absolute, below `~/`, or beside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathText(pub(super) String);

impl FromStr for PathText {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.contains('\0') {
            return Err(ValueError::Path);
        }
        Ok(Self(text.to_owned()))
    }
}

text_value!(PathText, { "type": "string", "minLength": 1, "pattern": "^[^\\u0000]*$" });

/// The name of a package as its manager takes it, checked so that it can never
/// be an option or shell text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package(pub(super) String);

impl FromStr for Package {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@~^<>=!+,[]*%".contains(c);
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '@');
        if starts && text.len() <= 255 && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Package(text.to_owned()))
        }
    }
}

text_value!(Package, {
    "type": "string",
    "maxLength": 255,
    "pattern": "^[A-Za-z0-9@][A-Za-z0-9._/:@~^<>=!+,\\[\\]*%-]*$"
});

macro_rules! url_value {
    ($(#[$doc:meta])* $name:ident, [$($scheme:literal),+], $example:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct $name(pub(super) String);

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let rest = [$($scheme),+].iter().find_map(|scheme| text.strip_prefix(scheme));
                match rest {
                    Some(rest) if !rest.is_empty() && !rest.contains(char::is_whitespace) => {
                        Ok(Self(text.to_owned()))
                    }
                    _ => Err(ValueError::Url { value: text.to_owned(), example: $example }),
                }
            }
        }

        text_value!($name, { "type": "string", "pattern": $pattern });
    };
}

url_value!(
    /// Where a Docker engine listens.
    DockerHost,
    ["unix://", "tcp://", "http://"],
    "unix:///var/run/docker.sock",
    "^(unix|tcp|http)://\\S+$"
);

url_value!(
    /// A proxy.
    ProxyUrl,
    ["http://", "https://"],
    "http://proxy.example:3128",
    "^https?://\\S+$"
);

/// The name of a container runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuntimeName(pub(super) String);

impl FromStr for RuntimeName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= 64 && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Name(text.to_owned()))
        }
    }
}

text_value!(RuntimeName, {
    "type": "string",
    "maxLength": 64,
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"
});
