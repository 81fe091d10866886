//! Custom images: the base image of a runtime with packages in it.
//!
//! Such an image is named by a hash of what it was made from: the base image's
//! id, the packages and the recipe. The same inputs have the same name, and then
//! there is nothing to do. Its packages are installed as root in a build, on the
//! engine's own network, and are outside of /sandbox, which is empty in every
//! sandbox:
//!
//! | runtime | where |
//! |---|---|
//! | python | the system's packages |
//! | node, bun | `/node_modules`, where resolution from /sandbox ends |
//! | deno | [`DENO_FOLDER`], which `DENO_DIR` then names |
//! | bash | the system's packages |

use std::{collections::HashMap, sync::Arc};

use isol8_core::{
    failure::{Failure, FailureKind},
    package::Package,
    runtime::Runtime,
    sandbox::ImageName,
};

use super::{
    Inner,
    builder::Broken,
    derive,
    image::base_tag,
    packed::{NAME_DIGITS, Origin, Step},
};
use crate::{Built, CustomOrder, ImageInfo, Progress};

mod lookup;

const INSTALL: &str = include_str!("custom/install.sh");
/// Counts up when the same packages would turn out in another way.
const RECIPE: &str = "1";
/// The packages as a JSON list. An image that has it is a custom one, or was made
/// from one.
pub(super) const LABEL_CUSTOM: &str = "isol8.custom";
/// Where the modules of a custom deno image are.
pub(super) const DENO_FOLDER: &str = "/usr/local/share/isol8/deno";

fn hash_of(origin: &Origin) -> String {
    origin.hash(RECIPE, install_script(origin.runtime))
}

/// What programs in such an image need to find its packages.
fn surroundings(runtime: Runtime) -> String {
    match runtime {
        Runtime::Node | Runtime::Bun => "ENV PATH=/node_modules/.bin:${PATH}\n".to_owned(),
        Runtime::Deno => format!("ENV DENO_DIR={DENO_FOLDER}\n"),
        Runtime::Python | Runtime::Bash => String::new(),
    }
}

/// The value of [`LABEL_CUSTOM`].
fn list_of(packages: &[Package]) -> String {
    let names: Vec<&str> = packages.iter().map(Package::as_str).collect();
    serde_json::to_string(&names).expect("texts are JSON")
}

/// The name of a custom image with this hash of its inputs.
fn tag_of(runtime: Runtime, hash: &str) -> String {
    format!("{}-custom-{}", base_tag(runtime), &hash[..NAME_DIGITS])
}

/// Whether it is such a name.
pub(super) fn is_custom_tag(tag: &str) -> bool {
    let digits = Runtime::ALL.into_iter().find_map(|runtime| {
        let rest = tag.strip_prefix(&base_tag(runtime))?;
        rest.strip_prefix("-custom-")
    });
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.is_some_and(|digits| digits.len() == NAME_DIGITS && digits.bytes().all(hex))
}

const fn install_script(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Bash => derive::INSTALL,
        _ => INSTALL,
    }
}

impl Inner {
    /// Makes a custom image, or finds that it is there; then gives it its alias.
    /// One build of an image at a time; who comes second finds it there.
    ///
    /// # Errors
    /// `ImageBuild` with what the installer said last; `ImageMissing` when the
    /// base image is not there.
    ///
    /// # Cancellation
    /// A dropped future ends the build, and what it has made goes.
    pub(super) async fn build_custom(
        self: &Arc<Self>,
        order: &CustomOrder,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        let base = self.images.named(&self.client, order.runtime, None).await?;
        let origin = self
            .origin_of(&base, order.runtime, &order.packages)
            .await?;
        let hash = hash_of(&origin);
        let tag = tag_of(origin.runtime, &hash);
        if let Some(alias) = &order.alias {
            self.check_alias(alias.as_str()).await?;
        }
        let make = self.build_custom_alone(&origin, &hash, &tag, order.force, progress);
        let built = self.images.alone(&tag, progress, make).await?;
        if let Some(alias) = &order.alias {
            self.tag(&tag, alias.as_str()).await?;
            self.images.forget();
        }
        if built.built {
            self.drop_superseded(&origin, &tag).await;
        }
        Ok(built)
    }

    async fn build_custom_alone(
        self: &Arc<Self>,
        origin: &Origin,
        hash: &str,
        tag: &str,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        let before = self.standing_custom(origin, hash, tag).await?;
        if let (Some(image), false) = (&before, force) {
            let image = image.clone();
            return Ok(Built {
                image,
                built: false,
            });
        }
        let built = self.run_custom_build(origin, hash, tag, progress).await;
        self.images.forget();
        built?;
        self.sweep(before.map(|image| image.id)).await;
        match self.standing_custom(origin, hash, tag).await? {
            Some(image) => Ok(Built { image, built: true }),
            None => Err(Failure::new(
                FailureKind::ImageBuild,
                format!("`{tag}` was built and is not there now"),
            )
            .hint("something else builds under the same tag: see `docker images isol8`")),
        }
    }

    /// The image where it is there and ours.
    async fn standing_custom(
        &self,
        origin: &Origin,
        hash: &str,
        tag: &str,
    ) -> Result<Option<ImageInfo>, Failure> {
        let Some(found) = self.standing_with(tag, hash).await? else {
            return Ok(None);
        };
        Ok(Some(ImageInfo {
            runtime: origin.runtime,
            tag: tag.to_owned(),
            id: found.id.unwrap_or_default(),
            size_bytes: u64::try_from(found.size.unwrap_or(0)).unwrap_or(0),
            packages: origin.packages.clone(),
        }))
    }

    async fn run_custom_build(
        self: &Arc<Self>,
        origin: &Origin,
        hash: &str,
        tag: &str,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        progress(&format!("installing {} into {tag}", origin.listed(", ")));
        let step = Step {
            tag,
            hash,
            script: install_script(origin.runtime),
            labels: &[],
            surroundings: &surroundings(origin.runtime),
            last_labels: HashMap::from([(LABEL_CUSTOM.to_owned(), list_of(&origin.packages))]),
            terms: None,
        };
        let packed = self.pack(origin, step, progress).await;
        packed.map_err(|broken| build_failed(origin, &broken))
    }
}

fn build_failed(origin: &Origin, broken: &Broken) -> Failure {
    if !broken.answered || broken.failure.kind == FailureKind::NoSpace {
        return broken.failure.clone();
    }
    let message = format!(
        "cannot build an image of {} with {}",
        origin.runtime,
        origin.listed(", ")
    );
    let mut failure = Failure::new(FailureKind::ImageBuild, message);
    if !broken.lines.is_empty() {
        failure = failure.cause(format!("the last lines were:\n{}", broken.lines.join("\n")));
    }
    let causes = broken.failure.causes.iter();
    causes.fold(failure, Failure::cause).hint(
        "check the names and versions; on a network that re-signs TLS set \
         `network.caBundle` in the config",
    )
}

/// The name of an alias, complete: without a tag of its own it is `:latest`.
///
/// # Errors
/// `InvalidRequest` for what an image cannot be called, and for names of ours.
pub fn alias(text: &str) -> Result<ImageName, Failure> {
    let wrong = |why: &str| {
        let shown = text.escape_debug();
        Failure::new(
            FailureKind::InvalidRequest,
            format!("`{shown}` cannot be a tag: {why}"),
        )
        .hint("write it like `--tag science` or `--tag team/science:2`")
    };
    let (repository, tag) = match text.rsplit_once(':') {
        // The colon of a port comes before a slash.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (text, "latest"),
    };
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (host, path) = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            (Some(host), path)
        }
        _ => (None, repository),
    };
    let part = |part: &str| {
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || "._-".contains(c))
    };
    if !path.split('/').all(part) {
        return Err(wrong(
            "a name has lower-case letters, digits, `.`, `_` and `-`",
        ));
    }
    if host.is_some_and(|host| !is_host(host)) {
        return Err(wrong("what is before the first `/` is no host"));
    }
    let inside = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let starts = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !starts || tag.len() > MAX_TAG || !tag.chars().all(inside) {
        return Err(wrong(
            "after the colon come at most 128 letters, digits, `.`, `_` and `-`",
        ));
    }
    // The engine has many spellings of a name without a host.
    let docker = host.is_none_or(|host| host.ends_with("docker.io"));
    if docker && path.strip_prefix("library/").unwrap_or(path) == "isol8" {
        return Err(wrong("names of `isol8` are isol8's own"));
    }
    ImageName::parse(&format!("{repository}:{tag}")).map_err(|error| wrong(&error.to_string()))
}

/// The longest that an engine takes.
const MAX_TAG: usize = 128;

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "1"));
    let inside = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let named = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(inside);
    named && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
