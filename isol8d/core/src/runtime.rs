//! The five runtimes and what is particular to each.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A language and its interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// CPython 3.
    Python,
    /// Node.js.
    Node,
    /// Bun.
    Bun,
    /// Deno.
    Deno,
    /// GNU bash.
    Bash,
}

/// No runtime has this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a runtime; choose python, node, bun, deno or bash")]
pub struct UnknownRuntime(pub String);

impl Runtime {
    /// Every runtime, in the order that people see.
    pub const ALL: [Self; 5] = [Self::Python, Self::Node, Self::Bun, Self::Deno, Self::Bash];

    /// The name in flags, tags and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Bun => "bun",
            Self::Deno => "deno",
            Self::Bash => "bash",
        }
    }

    /// The runtime that a file's extension (without the dot) stands for.
    #[must_use]
    pub fn from_extension(extension: &str) -> Option<Self> {
        Some(match extension {
            "py" => Self::Python,
            "js" | "mjs" | "cjs" => Self::Node,
            "ts" => Self::Bun,
            "mts" => Self::Deno,
            "sh" => Self::Bash,
            _ => return None,
        })
    }

    /// The extension of a program that came without a file.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::Node => "js",
            Self::Bun | Self::Deno => "ts",
            Self::Bash => "sh",
        }
    }

    /// The name of the interpreter's executable.
    #[must_use]
    pub const fn executable(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Node => "node",
            Self::Bun => "bun",
            Self::Deno => "deno",
            Self::Bash => "bash",
        }
    }

    /// Where packages of a run land, below `/sandbox`. Bash has its packages in
    /// the system's own folders instead.
    #[must_use]
    pub const fn install_folder(self) -> Option<&'static str> {
        match self {
            Self::Python => Some(".local"),
            Self::Node | Self::Bun => Some("node_modules"),
            Self::Deno => Some(".deno"),
            Self::Bash => None,
        }
    }

    /// The command line that runs `program` with `interpreter`.
    #[must_use]
    pub fn command_line(self, interpreter: &str, program: &str) -> Vec<String> {
        let mut argv = vec![interpreter.to_owned()];
        match self {
            // Everything that the sandbox allows; the sandbox is the boundary.
            Self::Deno => argv.extend(["run", "--allow-all", "--no-prompt"].map(str::to_owned)),
            Self::Bun => argv.push("run".to_owned()),
            Self::Python | Self::Node | Self::Bash => {}
        }
        argv.push(program.to_owned());
        argv
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Runtime {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|runtime| runtime.name() == text)
            .ok_or_else(|| UnknownRuntime(text.to_owned()))
    }
}
