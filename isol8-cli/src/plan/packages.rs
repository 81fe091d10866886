//! Packages as they are written: one for each `--install` of a run, with commas
//! between them for `isol8 build` and `isol8 setup`, as a list in the
//! configuration.

use isol8_core::{
    failure::Failure,
    package::{InvalidPackage, Package},
    runtime::Runtime,
};

use super::wrong;
use crate::args::RunArgs;

/// Where packages are written. A hint says how it is done there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Written {
    /// Each with an `--install` of its own.
    Singly,
    /// With this flag, and commas between them.
    Listed(&'static str),
    /// In the `dependencies` of the configuration.
    Configured,
}

/// The packages of the run, sorted, each once.
pub(super) fn packages(args: &RunArgs, runtime: Runtime) -> Result<Vec<String>, Failure> {
    if args.no_install_cache && args.install.is_empty() {
        return Err(wrong("`--no-install-cache` does nothing without packages")
            .hint("name them with `--install`, or leave it out"));
    }
    let packages = parsed(runtime, &args.install, Written::Singly)?;
    let text = |package: &Package| package.as_str().to_owned();
    Ok(packages.iter().map(text).collect())
}

/// Packages that are typed with commas between them, in any number of texts;
/// sorted, each once. `flag` is what they were typed with.
pub(crate) fn listed(
    runtime: Runtime,
    texts: &[String],
    flag: &'static str,
) -> Result<Vec<Package>, Failure> {
    let split = texts.iter().flat_map(|text| split(runtime, text));
    // A blank that someone typed after a comma is no part of a package.
    let single: Vec<String> = split.map(|part| part.trim().replace(", ", ",")).collect();
    parsed(runtime, &single, Written::Listed(flag))
}

/// Parts at commas, but only where a package begins after one: python's versions
/// and extras (`numpy>=1,<3`) and deno's URLs have commas of their own.
fn split(runtime: Runtime, text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begin = 0;
    for (at, _) in text.match_indices(',') {
        let (so_far, rest) = (&text[begin..at], text[at + 1..].trim_start());
        let begins = match runtime {
            Runtime::Python => {
                so_far.matches('[').count() == so_far.matches(']').count()
                    && !rest.starts_with(['<', '>', '=', '!', '~'])
            }
            Runtime::Deno => {
                let starts = ["npm:", "jsr:", "https:"];
                !so_far.starts_with("https:") || starts.iter().any(|start| rest.starts_with(start))
            }
            Runtime::Node | Runtime::Bun | Runtime::Bash => true,
        };
        if begins {
            parts.push(so_far);
            begin = at + 1;
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// The packages of these texts; sorted, each once.
pub(crate) fn parsed(
    runtime: Runtime,
    texts: &[String],
    written: Written,
) -> Result<Vec<Package>, Failure> {
    Package::parse_all(runtime, texts)
        .map_err(|error| wrong(error.to_string()).hint(hint(runtime, &error, written)))
}

fn hint(runtime: Runtime, error: &InvalidPackage, written: Written) -> String {
    let example = example(runtime);
    match error {
        InvalidPackage::TooMany(_) => match written {
            Written::Singly => "give an image that has them already with `--image`".to_owned(),
            Written::Listed(_) | Written::Configured => "leave some out".to_owned(),
        },
        // Several at once.
        InvalidPackage::Name { text, .. } | InvalidPackage::Character { text, .. }
            if text.contains([',', ' ']) =>
        {
            match written {
                Written::Singly => "give each package an `--install` of its own".to_owned(),
                Written::Listed(_) => "put a comma between two packages".to_owned(),
                Written::Configured => "give each package a text of its own".to_owned(),
            }
        }
        _ => match written {
            Written::Singly => format!("write it like `--install {example}`"),
            Written::Listed(flag) => format!("write it like `--{flag} {example}`"),
            // Its quotes are a shell's.
            Written::Configured => format!("write it like `\"{}\"`", example.trim_matches('\'')),
        },
    }
}

const fn example(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "'numpy>=2'",
        Runtime::Node | Runtime::Bun => "lodash@4",
        Runtime::Deno => "npm:chalk@5",
        Runtime::Bash => "jq",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(runtime: Runtime, text: &str, expected: &[&str]) {
        let found = listed(runtime, &[text.to_owned()], "install").expect("packages");
        let found: Vec<&str> = found.iter().map(Package::as_str).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn commas_part_packages_and_nothing_else() {
        let python = Runtime::Python;
        check(python, "six,numpy", &["numpy", "six"]);
        check(python, "six, numpy", &["numpy", "six"]);
        check(python, "numpy>=1,<3", &["numpy>=1,<3"]);
        check(python, "numpy>=1, <3,six", &["numpy>=1,<3", "six"]);
        check(
            python,
            "requests[socks,security]>=2,!=2.1,six==1.0",
            &["requests[socks,security]>=2,!=2.1", "six==1.0"],
        );
        check(Runtime::Node, "@a/b@^1,c", &["@a/b@^1", "c"]);
        check(Runtime::Bash, "jq=1.6-2.1,bc", &["bc", "jq=1.6-2.1"]);
        check(
            Runtime::Deno,
            "npm:chalk@5,https://h.example/a,b.ts,jsr:@std/path",
            &["https://h.example/a,b.ts", "jsr:@std/path", "npm:chalk@5"],
        );
    }

    #[test]
    fn a_part_without_a_package_is_wrong() {
        for text in ["", ",", "six,", ",six", "six,,bc", "six,-r", "six;id"] {
            let wrong = listed(Runtime::Python, &[text.to_owned()], "install").expect_err(text);
            assert_eq!(wrong.kind, isol8_core::failure::FailureKind::InvalidRequest);
        }
    }

    #[track_caller]
    fn hinted(written: Written, text: &str, expected: &str) {
        let failure = parsed(Runtime::Python, &[text.to_owned()], written).expect_err(text);
        assert_eq!(failure.hint.as_deref(), Some(expected));
    }

    #[test]
    fn a_hint_is_about_the_place_where_it_is_written() {
        hinted(
            Written::Singly,
            "-r",
            "write it like `--install 'numpy>=2'`",
        );
        hinted(
            Written::Listed("python"),
            "-r",
            "write it like `--python 'numpy>=2'`",
        );
        hinted(Written::Configured, "-r", "write it like `\"numpy>=2\"`");
        let two = "six attrs";
        hinted(
            Written::Singly,
            two,
            "give each package an `--install` of its own",
        );
        hinted(
            Written::Listed("install"),
            two,
            "put a comma between two packages",
        );
        hinted(
            Written::Configured,
            two,
            "give each package a text of its own",
        );
        let many = vec!["six".to_owned(); 101];
        let failure = parsed(Runtime::Python, &many, Written::Configured).expect_err("too many");
        assert_eq!(failure.hint.as_deref(), Some("leave some out"));
    }
}
