//! `--install`.

use isol8_core::{
    failure::Failure,
    package::{InvalidPackage, Package},
    runtime::Runtime,
};

use super::wrong;
use crate::args::RunArgs;

/// The packages of the run, sorted, each once.
pub(super) fn packages(args: &RunArgs, runtime: Runtime) -> Result<Vec<String>, Failure> {
    if args.no_install_cache && args.install.is_empty() {
        return Err(wrong("`--no-install-cache` does nothing without packages")
            .hint("name them with `--install`, or leave it out"));
    }
    let packages = parsed(runtime, &args.install)?;
    let text = |package: &Package| package.as_str().to_owned();
    Ok(packages.iter().map(text).collect())
}

/// Packages that are typed with commas between them, in any number of texts;
/// sorted, each once.
pub(crate) fn listed(runtime: Runtime, texts: &[String]) -> Result<Vec<Package>, Failure> {
    let split = texts.iter().flat_map(|text| split(runtime, text));
    // A blank that someone typed after a comma is no part of a package.
    let single: Vec<String> = split.map(|part| part.trim().replace(", ", ",")).collect();
    parsed(runtime, &single)
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
pub(crate) fn parsed(runtime: Runtime, texts: &[String]) -> Result<Vec<Package>, Failure> {
    Package::parse_all(runtime, texts).map_err(|error| {
        let failure = wrong(error.to_string());
        match &error {
            InvalidPackage::TooMany(_) => {
                failure.hint("give an image that has them already with `--image`")
            }
            // Several at once are typed with commas elsewhere.
            InvalidPackage::Name { text, .. } | InvalidPackage::Character { text, .. }
                if text.contains([',', ' ']) =>
            {
                failure.hint("give each package an `--install` of its own")
            }
            _ => failure.hint(format!("write it like `--install {}`", example(runtime))),
        }
    })
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
        let found = listed(runtime, &[text.to_owned()]).expect("packages");
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
            let wrong = listed(Runtime::Python, &[text.to_owned()]).expect_err(text);
            assert_eq!(wrong.kind, isol8_core::failure::FailureKind::InvalidRequest);
        }
    }
}
