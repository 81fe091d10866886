//! What a run installs.

use isol8_core::{
    config::Config,
    failure::Failure,
    package::{InvalidPackage, Package},
    runtime::Runtime,
};

use isol8_proto::v1;

use super::invalid;

/// What a run wants in its image: what it says, else what the daemon is told.
pub(super) fn dependencies(
    runtime: Runtime,
    asked: Option<&v1::Dependencies>,
    config: &Config,
) -> Result<Vec<Package>, Failure> {
    match asked {
        Some(asked) => packages(runtime, &asked.packages),
        None => configured(runtime, config),
    }
}

/// The packages of `dependencies.<runtime>` of the daemon's own configuration.
///
/// # Errors
/// `InvalidRequest` where one is no package of the runtime.
pub(crate) fn configured(runtime: Runtime, config: &Config) -> Result<Vec<Package>, Failure> {
    let Some(texts) = config.dependencies.get(&runtime) else {
        return Ok(Vec::new());
    };
    Package::parse_all(runtime, texts).map_err(|error| {
        invalid(format!("`dependencies.{runtime}` of the daemon: {error}"))
            .hint("correct the daemon's configuration: `isol8 config` shows which file it is")
    })
}

/// The packages of a run by the grammar of its runtime, sorted, each once.
///
/// # Errors
/// `InvalidRequest` names the package.
pub(crate) fn packages(runtime: Runtime, texts: &[String]) -> Result<Vec<Package>, Failure> {
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
