//! Which hosts an installer takes packages from.
//!
//! Nothing is known here of any registry: the tool of the sandbox is asked,
//! with the settings that its image or host gives it. Pip and npm can say where
//! they look; what no tool says (where the files lie, or anything in the case of
//! bun and deno) is seen from what it asks the filter for when everything but
//! the hosts known so far is closed. Only a download is tried for that, one that
//! runs nothing of a package: a script must not name hosts that are then open.

use std::collections::BTreeSet;

use isol8_core::{egress::host::Host, package::Package, runtime::Runtime};
use serde::Deserialize;
use url::Url;

use super::{
    apt::Apt,
    recipe::{Must, Order, SCRATCH, Step},
};

/// How often a tool may run into a host that was not known.
pub(crate) const MOST_ROUNDS: u32 = 3;

/// Hosts of one kind of registry; a tool has a few.
const MOST_HOSTS: usize = 50;

/// Asks pip; see the file.
const ASK_PIP: &str = include_str!("registry/python.py");

/// A kind of registry. Deno has two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum World {
    Pip,
    Npm,
    Bun,
    DenoNpm,
    DenoJsr,
    Apt,
}

impl World {
    const ALL: [Self; 6] = [
        Self::Pip,
        Self::Npm,
        Self::Bun,
        Self::DenoNpm,
        Self::DenoJsr,
        Self::Apt,
    ];

    /// The name on disk.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pip => "pip",
            Self::Npm => "npm",
            Self::Bun => "bun",
            Self::DenoNpm => "deno npm",
            Self::DenoJsr => "deno jsr",
            Self::Apt => "apt",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|world| world.name() == name)
    }

    fn of(runtime: Runtime, package: &Package) -> Option<Self> {
        match runtime {
            Runtime::Python => Some(Self::Pip),
            Runtime::Node => Some(Self::Npm),
            Runtime::Bun => Some(Self::Bun),
            Runtime::Deno if package.as_str().starts_with("npm:") => Some(Self::DenoNpm),
            Runtime::Deno if package.as_str().starts_with("jsr:") => Some(Self::DenoJsr),
            // A URL names its host itself.
            Runtime::Deno => None,
            Runtime::Bash => Some(Self::Apt),
        }
    }
}

/// The registries that packages come from, each with the first such package.
pub(crate) fn worlds(runtime: Runtime, packages: &[Package]) -> Vec<(World, Package)> {
    let mut found: Vec<(World, Package)> = Vec::new();
    for package in packages {
        let Some(world) = World::of(runtime, package) else {
            continue;
        };
        if found.iter().all(|(known, _)| *known != world) {
            found.push((world, package.clone()));
        }
    }
    found
}

/// What the tool can be asked for without a network; `None`: nothing.
pub(crate) fn question(order: &Order<'_>, world: World) -> Option<Step> {
    let program = order.interpreter.program.as_str();
    match world {
        World::Pip => Some(order.step(Must::BeThere, [program, "-c", ASK_PIP])),
        World::Npm => Some(order.step(Must::BeThere, ["npm", "config", "list", "--json"])),
        World::Apt => Some(Apt::question(order)),
        World::Bun | World::DenoNpm | World::DenoJsr => None,
    }
}

/// What makes the tool go to every host that it needs for a package, without
/// running anything of it. `None`: its answer is always complete.
pub(crate) fn attempt(order: &Order<'_>, world: World, package: &Package) -> Option<Step> {
    let program = order.interpreter.program.as_str();
    let name = package.as_str();
    Some(match world {
        World::Apt => return None,
        World::Pip => order.step(Must::Try, [program, "-c", ASK_PIP, name]),
        World::Npm => order
            .step(Must::Try, ["npm", "cache", "add", "--", name])
            .with("npm_config_fetch_retries", "0"),
        World::Bun => order.step(
            Must::Try,
            [
                program,
                "add",
                "--cwd",
                &format!("{SCRATCH}/tmp"),
                "--no-save",
                "--no-progress",
                "--ignore-scripts",
                "--",
                name,
            ],
        ),
        World::DenoNpm | World::DenoJsr => order.step(Must::Try, [program, "cache", "--", name]),
    })
}

/// What a tool said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// The hosts.
    pub(crate) hosts: BTreeSet<String>,
    /// There are no others.
    pub(crate) complete: bool,
}

/// Reads the answer to a [`question`], or to pip's [`attempt`]. `None` when it
/// is none.
pub(crate) fn read(order: &Order<'_>, world: World, output: &[u8]) -> Option<Answer> {
    let answer = match world {
        World::Apt => Answer {
            hosts: order.apt?.hosts(output),
            complete: true,
        },
        World::Pip => read_pip(output)?,
        World::Npm => read_npm(output)?,
        World::Bun | World::DenoNpm | World::DenoJsr => return None,
    };
    (answer.hosts.len() <= MOST_HOSTS).then_some(answer)
}

fn read_pip(output: &[u8]) -> Option<Answer> {
    #[derive(Deserialize)]
    struct Said {
        hosts: Vec<String>,
        complete: bool,
    }
    let said: Said = serde_json::from_slice(output).ok()?;
    Some(Answer {
        hosts: said
            .hosts
            .iter()
            .filter_map(|host| canonical(host))
            .collect(),
        complete: said.complete,
    })
}

fn read_npm(output: &[u8]) -> Option<Answer> {
    let said: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(output).ok()?;
    let is_registry = |name: &str| name == "registry" || name.ends_with(":registry");
    let urls = said.iter().filter(|(name, _)| is_registry(name));
    let urls = urls.filter_map(|(_, value)| Url::parse(value.as_str()?).ok());
    Some(Answer {
        hosts: urls.filter_map(|url| canonical(url.host_str()?)).collect(),
        // Where the files lie stands in what the registry answers.
        complete: false,
    })
}

/// The one form in which the filter compares hosts.
pub(crate) fn canonical(host: &str) -> Option<String> {
    Some(Host::parse(host).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn pip_says_where_it_looks() {
        let said = br#"{"hosts": ["files.example.org", "Index.Example.org."], "complete": true}"#;
        let answer = read_pip(said).expect("an answer");
        assert_eq!(
            answer.hosts,
            hosts(&["files.example.org", "index.example.org"])
        );
        assert!(answer.complete);
        assert_eq!(read_pip(b"Traceback"), None);
    }

    #[test]
    fn npm_says_every_registry() {
        let said = br#"{
            "registry": "https://npm.example.org/all/",
            "@scope:registry": "http://other.example.org:8080",
            "//npm.example.org/:_authToken": "x",
            "replace-registry-host": "npmjs",
            "cache": "/x"
        }"#;
        let answer = read_npm(said).expect("an answer");
        assert_eq!(
            answer.hosts,
            hosts(&["npm.example.org", "other.example.org"])
        );
        assert!(!answer.complete);
    }

    #[test]
    fn each_kind_of_registry_is_asked_for_once() {
        let parse =
            |runtime, texts: &[&str]| Package::parse_all(runtime, texts).expect("good packages");
        let deno = parse(
            Runtime::Deno,
            &[
                "npm:b",
                "npm:a",
                "jsr:@std/path",
                "https://x.example.org/mod.ts",
            ],
        );
        let found = worlds(Runtime::Deno, &deno);
        let found: Vec<_> = found
            .iter()
            .map(|(world, package)| format!("{} {package}", world.name()))
            .collect();
        assert_eq!(found, ["deno jsr jsr:@std/path", "deno npm npm:a"]);
        let bash = worlds(Runtime::Bash, &parse(Runtime::Bash, &["jq", "bc"]));
        assert_eq!(bash.len(), 1);
    }

    #[test]
    fn names_on_disk_are_read_again() {
        for world in World::ALL {
            assert_eq!(World::parse(world.name()), Some(world));
        }
        assert_eq!(World::parse("cargo"), None);
    }
}
