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
    let packages = Package::parse_all(runtime, &args.install).map_err(|error| {
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
    })?;
    let text = |package: &Package| package.as_str().to_owned();
    Ok(packages.iter().map(text).collect())
}

const fn example(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "'numpy>=2'",
        Runtime::Node | Runtime::Bun => "lodash@4",
        Runtime::Deno => "npm:chalk@5",
        Runtime::Bash => "jq",
    }
}
