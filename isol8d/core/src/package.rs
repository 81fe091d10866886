//! The packages of a run, checked so that an installer can take them for
//! nothing else: no option, path, URL of another kind, or shell text.

use std::fmt;

use thiserror::Error;

use crate::{egress::host::Host, runtime::Runtime};

mod contained;
mod grammar;

/// The most packages of one run.
pub const MOST_PACKAGES: usize = 100;

/// The longest package with its version, in bytes: npm's names have 214.
pub const LONGEST_PACKAGE: usize = 255;

/// A package as its manager takes it, with the version that was asked for.
///
/// Its text has no space, no control character and none of the characters of a
/// shell that run or redirect something by themselves when they are quoted as
/// one argument; it does not begin with `-`. It is still an argument of its
/// own, never a part of a command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Package {
    text: String,
    pinned: bool,
    host: Option<Host>,
}

/// Why a text is not a package of a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidPackage {
    /// Nothing.
    #[error("a package must not be empty")]
    Empty,
    /// Too much text.
    #[error("a package has at most {LONGEST_PACKAGE} bytes; this one has {0}")]
    TooLong(usize),
    /// The installer would take it for one of its options.
    #[error("`{0}` is an option, not a package")]
    Option(String),
    /// A character that no package of this runtime has.
    #[error("`{}` is not a {runtime} package: it holds `{}`", .text.escape_debug(), .found.escape_debug())]
    Character {
        /// As it was given.
        text: String,
        /// The runtime.
        runtime: Runtime,
        /// The first such character.
        found: char,
    },
    /// A path, an archive, a repository or a URL.
    #[error("`{text}` is not a {runtime} package: {}", source_hint(*.runtime))]
    Source {
        /// As it was given.
        text: String,
        /// The runtime.
        runtime: Runtime,
    },
    /// The name.
    #[error("`{text}` is not a {runtime} package; write it like {}", example(*.runtime))]
    Name {
        /// As it was given.
        text: String,
        /// The runtime.
        runtime: Runtime,
    },
    /// The version.
    #[error("the version of `{text}` is not one that {runtime} packages have; write it like {}", example(*.runtime))]
    Version {
        /// As it was given.
        text: String,
        /// The runtime.
        runtime: Runtime,
    },
    /// More than one run may have.
    #[error("there are {0} packages; one run has at most {MOST_PACKAGES}")]
    TooMany(usize),
}

const fn example(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "`numpy`, `requests[socks]` or `numpy>=2,<3`",
        Runtime::Node | Runtime::Bun => "`lodash`, `@scope/name` or `lodash@^4.17`",
        Runtime::Deno => "`npm:chalk@5`, `jsr:@std/path@1` or `https://host/mod.ts`",
        Runtime::Bash => "`jq` or `jq=1.6-2.1`",
    }
}

const fn source_hint(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Deno => "only `npm:`, `jsr:` and `https:` are taken",
        _ => "only names of a registry are taken, no paths, archives, URLs or repositories",
    }
}

impl Package {
    /// Checks a package of a runtime.
    ///
    /// # Errors
    /// [`InvalidPackage`], with the text in question.
    pub fn parse(runtime: Runtime, text: &str) -> Result<Self, InvalidPackage> {
        grammar::check_text(runtime, text)?;
        let found = match runtime {
            Runtime::Python => grammar::python(text),
            Runtime::Node | Runtime::Bun => grammar::npm(text),
            Runtime::Deno => grammar::deno(text),
            Runtime::Bash => grammar::bash(text),
        };
        let text = text.to_owned();
        match found {
            Ok(grammar::Found { pinned, host }) => Ok(Self { text, pinned, host }),
            Err(grammar::Wrong::Name) => Err(InvalidPackage::Name { text, runtime }),
            Err(grammar::Wrong::Version) => Err(InvalidPackage::Version { text, runtime }),
            Err(grammar::Wrong::Source) => Err(InvalidPackage::Source { text, runtime }),
        }
    }

    /// Checks all packages of a run; sorted, each once.
    ///
    /// # Errors
    /// The first that is wrong, or [`InvalidPackage::TooMany`].
    pub fn parse_all<T: AsRef<str>>(
        runtime: Runtime,
        texts: &[T],
    ) -> Result<Vec<Self>, InvalidPackage> {
        if texts.len() > MOST_PACKAGES {
            return Err(InvalidPackage::TooMany(texts.len()));
        }
        let each = texts.iter().map(|text| Self::parse(runtime, text.as_ref()));
        Ok(sorted(each.collect::<Result<Vec<_>, _>>()?))
    }

    /// As the installer takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it names one version, so that it stands for the same files
    /// tomorrow.
    #[must_use]
    pub fn pinned(&self) -> bool {
        self.pinned
    }

    /// The host of a URL (deno). Names have none: their registry is the
    /// installer's own setting.
    #[must_use]
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }
}

impl AsRef<str> for Package {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Sorted by text, each once: what a set of packages is named by.
#[must_use]
pub fn sorted(packages: impl IntoIterator<Item = Package>) -> Vec<Package> {
    let mut packages: Vec<Package> = packages.into_iter().collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests;
