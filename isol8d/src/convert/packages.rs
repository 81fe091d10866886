//! What a run installs.

use isol8_core::{
    failure::Failure,
    package::{InvalidPackage, Package},
    runtime::Runtime,
};

use super::invalid;

/// The packages of a run by the grammar of its runtime, sorted, each once.
pub(super) fn packages(runtime: Runtime, texts: &[String]) -> Result<Vec<Package>, Failure> {
    Package::parse_all(runtime, texts).map_err(|error| {
        let failure = invalid(error.to_string());
        match error {
            InvalidPackage::TooMany(_) => {
                failure.hint("give an image that has them already with `--image`")
            }
            // The others say themselves what a package looks like.
            InvalidPackage::Empty
            | InvalidPackage::TooLong(_)
            | InvalidPackage::Option(_)
            | InvalidPackage::Character { .. } => failure.hint(example(runtime)),
            _ => failure,
        }
    })
}

const fn example(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "write it like `--install 'numpy>=2'`",
        Runtime::Node | Runtime::Bun => "write it like `--install lodash@4`",
        Runtime::Deno => "write it like `--install npm:chalk@5`",
        Runtime::Bash => "write it like `--install jq`",
    }
}
