//! Sessions: what one is called, and what a run may ask of one that is there.

use std::fmt;

use thiserror::Error;

use crate::{
    failure::{Failure, FailureKind},
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, Network, SandboxKey},
};

/// The longest name of a session, in characters.
const MAX_NAME_CHARS: usize = 64;

/// What a session is called by the one whom it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName(String);

/// Why a text is not the name of a session.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{}` is not a session name", .0.escape_debug())]
pub struct InvalidSessionName(pub String);

impl SessionName {
    /// Takes 1 to 64 letters, digits and `._-`, beginning with a letter or digit:
    /// a name can be typed anywhere, and `name:/path` has one meaning.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidSessionName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= MAX_NAME_CHARS && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSessionName(text.to_owned()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a run says of the session that it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionAsk {
    /// Which one.
    pub name: SessionName,
    /// What it must be made with.
    pub given: Given,
}

/// What the request itself gave, and no default filled in. A session that is
/// there must have been made with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// Its engine.
    pub engine: Option<EngineKind>,
    /// Its network.
    pub network: Option<Network>,
    /// Packages are to be installed: it must have a network.
    pub installs: bool,
    /// Hosts are listed, or requests are to be told: it must have a filter.
    pub filters: bool,
    /// Its image.
    pub image: Option<ImageName>,
    /// Its root must be writable.
    pub writable: bool,
    /// Its memory.
    pub memory: Option<ByteSize>,
    /// Its processor share.
    pub cpu: Option<CpuMillis>,
    /// Its processes.
    pub pids: Option<Pids>,
    /// Its tmpfs at /sandbox.
    pub sandbox_size: Option<ByteSize>,
    /// Its tmpfs at /tmp.
    pub tmp_size: Option<ByteSize>,
}

impl Given {
    /// Whether a session that was made with `key` and `limits` is what is asked
    /// for.
    ///
    /// # Errors
    /// `SessionMismatch`, with both values of each difference.
    pub fn check(
        &self,
        name: &SessionName,
        runtime: Runtime,
        key: &SandboxKey,
        limits: &Limits,
    ) -> Result<(), Failure> {
        let others = format!("use another one with `--session`, or `isol8 session rm {name}`");
        if runtime != key.runtime {
            let message = format!(
                "Cannot switch runtime from \"{}\" to \"{runtime}\". \
                 Each persistent container supports a single runtime.",
                key.runtime
            );
            return Err(
                Failure::new(FailureKind::SessionMismatch, message).hint(format!(
                    "use `--session <name>` or `isol8 session rm {name}`"
                )),
            );
        }
        if self.installs && key.network == Network::None {
            let message = format!("session `{name}` has no network: nothing can be installed");
            return Err(Failure::new(FailureKind::SessionMismatch, message)
                .cause("it was made with `--net none`")
                .hint(format!("{others}, and install with its first run")));
        }
        if self.filters && key.network != Network::Filtered {
            let message = format!("session `{name}` has no filtered network");
            return Err(Failure::new(FailureKind::SessionMismatch, message)
                .cause(format!("it was made with `--net {}`", key.network))
                .hint(others));
        }
        let differences = self.differences(key, limits);
        if differences.is_empty() {
            return Ok(());
        }
        let message = format!("session `{name}` was made with something else");
        let failure = Failure::new(FailureKind::SessionMismatch, message);
        let failure = differences.into_iter().fold(failure, Failure::cause);
        Err(failure.hint(format!("leave that out, {others}")))
    }

    fn differences(&self, key: &SandboxKey, limits: &Limits) -> Vec<String> {
        let mut found = Vec::new();
        differs(&mut found, "--engine", self.engine, key.engine);
        differs(&mut found, "--net", self.network, key.network);
        differs(&mut found, "--memory", self.memory, limits.memory);
        differs(&mut found, "--cpu", self.cpu, limits.cpu);
        differs(&mut found, "--pids-limit", self.pids, limits.pids);
        let (sandbox, tmp) = (self.sandbox_size, self.tmp_size);
        differs(&mut found, "--sandbox-size", sandbox, key.sandbox_size);
        differs(&mut found, "--tmp-size", tmp, key.tmp_size);
        if self.writable && !key.writable {
            found.push("its root filesystem is read-only, `--writable` was asked for".to_owned());
        }
        if let Some(image) = self
            .image
            .as_ref()
            .filter(|image| key.image.as_ref() != Some(image))
        {
            let has = match &key.image {
                Some(image) => format!("`{image}`"),
                None => format!("the image of {}", key.runtime),
            };
            found.push(format!("`--image` is {has} there, `{image}` was asked for"));
        }
        found
    }
}

fn differs<T: PartialEq + fmt::Display>(
    found: &mut Vec<String>,
    flag: &str,
    asked: Option<T>,
    has: T,
) {
    if let Some(asked) = asked.filter(|asked| *asked != has) {
        found.push(format!("`{flag}` is {has} there, {asked} was asked for"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn check(given: &Given, runtime: Runtime) -> Result<(), String> {
        let name = SessionName::parse("work").expect("a name");
        let mut key = Config::default().usual_key(EngineKind::Native, Runtime::Node);
        key.network = Network::None;
        let limits = Limits {
            memory: ByteSize::mib(512),
            cpu: CpuMillis::ONE,
            pids: Pids::new(64).expect("in range"),
        };
        let checked = given.check(&name, runtime, &key, &limits);
        checked.map_err(|failure| {
            assert_eq!(failure.kind, FailureKind::SessionMismatch);
            let hint = failure.hint.clone().expect("it has a hint");
            assert!(hint.contains("isol8 session rm work"), "{hint}");
            failure.to_string()
        })
    }

    #[test]
    fn names_are_plain() {
        for good in ["default", "a", "9", "a.b-c_D", &"x".repeat(64)] {
            assert_eq!(SessionName::parse(good).expect(good).as_str(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", "-a", ".a", "a b", "a:b", "a/b", "é", "a\n", &long] {
            assert!(SessionName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_given_is_whatever_there_is() {
        assert_eq!(check(&Given::default(), Runtime::Node), Ok(()));
        let same = Given {
            engine: Some(EngineKind::Native),
            memory: Some(ByteSize::mib(512)),
            network: Some(Network::None),
            ..Given::default()
        };
        assert_eq!(check(&same, Runtime::Node), Ok(()));
    }

    #[test]
    fn another_runtime_is_told_in_the_words_of_the_contract() {
        let told = check(&Given::default(), Runtime::Python).expect_err("another runtime");
        let words = "Cannot switch runtime from \"node\" to \"python\". \
                     Each persistent container supports a single runtime.";
        assert_eq!(told, words);
    }

    #[test]
    fn every_difference_is_told_with_both_values() {
        let image = ImageName::parse("alpine:3").expect("a name");
        let given = Given {
            engine: Some(EngineKind::Docker),
            network: Some(Network::Host),
            installs: false,
            filters: false,
            image: Some(image),
            writable: true,
            memory: Some(ByteSize::mib(64)),
            cpu: CpuMillis::new(500),
            pids: Pids::new(8),
            sandbox_size: Some(ByteSize::mib(1)),
            tmp_size: Some(ByteSize::mib(2)),
        };
        let told = check(&given, Runtime::Node).expect_err("all differs");
        for part in [
            "`--engine` is native there, docker was asked for",
            "`--net` is none there, host was asked for",
            "`--memory` is 512m there, 64m was asked for",
            "`--pids-limit` is 64 there, 8 was asked for",
            "`--sandbox-size` is 512m there, 1m was asked for",
            "`--tmp-size` is 256m there, 2m was asked for",
            "`--image` is the image of node there, `alpine:3` was asked for",
            "`--writable` was asked for",
            "`--cpu` is ",
        ] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
    }

    #[test]
    fn nothing_is_installed_without_a_network() {
        let given = Given {
            installs: true,
            ..Given::default()
        };
        let told = check(&given, Runtime::Node).expect_err("no network");
        assert!(told.contains("nothing can be installed"), "{told}");
    }
}
