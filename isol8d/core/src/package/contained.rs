//! Packages compared with packages that are there already.

use super::{Package, grammar};
use crate::runtime::Runtime;

impl Package {
    /// Whether a place with `there` in it has what this asks for: the same text,
    /// or, where this is a name alone, any version of that name.
    ///
    /// Deno's names are exact: what a bare `npm:chalk` means, it looks up in the
    /// registry's list each time, and an image has the one version.
    #[must_use]
    pub fn is_met_by(&self, runtime: Runtime, there: &[Self]) -> bool {
        if there.contains(self) {
            return true;
        }
        let name = grammar::name(runtime, self.as_str());
        let is_bare = name == self.as_str();
        // `alias@npm:name` is there under a name that means another package.
        let is_it = |have: &&Self| self.is_same(runtime, have) && !have.as_str().contains("@npm:");
        runtime != Runtime::Deno && is_bare && there.iter().any(|have| is_it(&have))
    }

    /// Whether both are the same package, whatever the version.
    #[must_use]
    pub fn is_same(&self, runtime: Runtime, other: &Self) -> bool {
        canonical(runtime, self.as_str()) == canonical(runtime, other.as_str())
    }
}

/// The name in the one spelling by which a registry compares names.
fn canonical(runtime: Runtime, text: &str) -> String {
    let name = grammar::name(runtime, text);
    if runtime != Runtime::Python {
        return name.to_owned();
    }
    // PEP 503.
    let lower = name.to_ascii_lowercase();
    let parts = lower.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(runtime: Runtime, asked: &str, there: &[&str], met: bool) {
        let asked = Package::parse(runtime, asked).unwrap();
        let there = Package::parse_all(runtime, there).unwrap();
        assert_eq!(
            asked.is_met_by(runtime, &there),
            met,
            "{asked} in {there:?}"
        );
    }

    #[test]
    fn a_name_alone_takes_any_version() {
        let python = Runtime::Python;
        check(python, "numpy", &["six", "numpy"], true);
        check(python, "NumPy", &["numpy==2.1.0"], true);
        check(python, "ruamel-yaml", &["ruamel.yaml>=1,<2"], true);
        check(python, "requests", &["requests[socks]"], true);
        check(python, "num", &["numpy"], false);
        check(python, "numpy", &[], false);
        check(Runtime::Node, "lodash", &["lodash@^4"], true);
        check(Runtime::Node, "@scope/name", &["@scope/name@1.0.0"], true);
        check(Runtime::Node, "name", &["@scope/name"], false);
        check(Runtime::Bun, "Lodash", &["lodash"], false);
        check(Runtime::Bash, "jq", &["jq=1.6-2.1"], true);
    }

    #[test]
    fn a_version_takes_itself_alone() {
        let python = Runtime::Python;
        check(python, "numpy>=2", &["numpy>=2"], true);
        check(python, "numpy>=2", &["numpy==2.1.0"], false);
        check(python, "numpy==2.1.0", &["numpy"], false);
        check(python, "requests[socks]", &["requests"], false);
        check(Runtime::Node, "lodash@4", &["lodash@4.17.21"], false);
    }

    #[test]
    fn an_alias_is_not_the_package_of_that_name() {
        check(Runtime::Node, "left", &["left@npm:right@1"], false);
        check(
            Runtime::Node,
            "left@npm:right@1",
            &["left@npm:right@1"],
            true,
        );
    }

    #[test]
    fn deno_names_are_exact() {
        check(Runtime::Deno, "npm:chalk", &["npm:chalk@5"], false);
        check(Runtime::Deno, "npm:chalk@5", &["npm:chalk@5"], true);
    }

    #[test]
    fn the_same_package_in_another_version_is_the_same() {
        let same = |runtime, one: &str, other: &str| {
            let parse = |text| Package::parse(runtime, text).unwrap();
            parse(one).is_same(runtime, &parse(other))
        };
        assert!(same(Runtime::Python, "Numpy>=2", "numpy[extra]==1"));
        assert!(same(Runtime::Node, "@a/b@1", "@a/b"));
        assert!(same(Runtime::Deno, "npm:chalk@5", "npm:chalk@4"));
        assert!(!same(Runtime::Deno, "npm:@a/b@5", "jsr:@a/b@5"));
        assert!(!same(Runtime::Deno, "npm:chalk@5/x", "npm:chalk@5/y"));
        assert!(!same(Runtime::Deno, "https://h/a.ts", "https://h/b.ts"));
        assert!(same(Runtime::Bash, "jq=1", "jq"));
    }
}
