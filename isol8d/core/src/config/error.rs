//! Why a configuration cannot be used.

use std::path::PathBuf;

use thiserror::Error;

use crate::failure::{Failure, FailureKind};

/// Why a configuration cannot be used. The message names the key and the place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Not JSON, an unknown key, or a wrong value.
    #[error("{}:{line}: {}{message}", path.display(), in_key(key))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Dotted path of the key; empty at the top.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A working directory's file tries to decide about isolation.
    #[error("{}:{line}: `{key}` cannot be set by a file of the working directory", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Dotted path of the key.
        key: String,
    },
    /// Two keys that do not go together.
    #[error("{}: `{key}`: {message}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A variable of the environment holds a wrong value.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        message: String,
    },
}

fn in_key(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!("`{key}`: ")
    }
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Untrusted { .. } => {
                "put it into `~/.config/isol8/config.json`, or for the system daemon into \
                 `/etc/isol8/config.json`"
                    .to_owned()
            }
            Self::Environment { name, .. } => format!("unset {name} or give it another value"),
            Self::Invalid { .. } | Self::Inconsistent { .. } => {
                "`isol8 config --schema` prints every key and what it takes".to_owned()
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(FailureKind::InvalidRequest, error.to_string()).hint(error.hint())
    }
}
