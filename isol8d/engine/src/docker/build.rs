//! Base images: what goes in, whether that changed, and the build.
//!
//! An image carries a hash of everything it was made from. The same inputs give
//! the same hash, and then there is nothing to do.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use bollard::query_parameters::RemoveImageOptionsBuilder;
use isol8_core::{
    config::MAX_CA_BUNDLE_BYTES,
    failure::{Failure, FailureKind},
    runtime::Runtime,
};

use super::{
    Inner,
    builder::{Broken, Order, fingerprint},
    client::REMOVE,
    image::{self, LABEL_RUNTIME, base_tag},
    pull,
};
use crate::{Built, ImageInfo, Progress, hardening::LABEL_MANAGED};

const DOCKERFILE: &str = include_str!("../../../../images/Dockerfile");
/// The name that a Dockerfile knows the authorities by.
pub(super) const CA_BUNDLE: &str = "ca-bundle.crt";

/// The hash of an image's inputs.
pub(super) const LABEL_INPUTS: &str = "isol8.inputs";
/// The id of the image that it was built on.
pub(super) const LABEL_BASE: &str = "isol8.base";
/// Counts up when labels or the build's own settings change their meaning.
const SCHEME: &str = "1";

/// The engine's own names for a proxy: they reach the build and are not kept in
/// the image, nor do they count as inputs.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// What an image is made from.
#[derive(Debug)]
struct Inputs {
    runtime: Runtime,
    base_id: String,
    ca_bundle: Vec<u8>,
    arguments: BTreeMap<String, String>,
}

/// How an image of ours stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Made from what would go in now.
    Current(ImageInfo),
    /// Made from something else.
    Stale(ImageInfo),
    /// Not there, or not ours.
    Absent,
}

impl Inputs {
    fn hash(&self) -> String {
        let fixed = [SCHEME, DOCKERFILE, self.runtime.name(), &self.base_id];
        let arguments = self.arguments.iter();
        fingerprint(
            fixed
                .map(str::as_bytes)
                .into_iter()
                .chain([self.ca_bundle.as_slice()])
                .chain(arguments.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()])),
        )
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (LABEL_MANAGED.into(), "1".into()),
            (LABEL_RUNTIME.into(), self.runtime.name().into()),
            (LABEL_INPUTS.into(), self.hash()),
            (LABEL_BASE.into(), self.base_id.clone()),
        ])
    }
}

impl Inner {
    /// Builds a runtime's base image unless it is current. One build of an image
    /// at a time; who comes second finds it current.
    pub(super) async fn build(
        &self,
        runtime: Runtime,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        let tag = base_tag(runtime);
        let make = self.build_alone(runtime, &tag, force, progress);
        self.images.alone(&tag, progress, make).await
    }

    async fn build_alone(
        &self,
        runtime: Runtime,
        tag: &str,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        let before = match self.standing(runtime).await? {
            Standing::Current(image) if !force => {
                return Ok(Built {
                    image,
                    built: false,
                });
            }
            Standing::Current(image) | Standing::Stale(image) => Some(image.id),
            Standing::Absent => None,
        };
        self.need_base_image(progress).await?;
        let inputs = self.inputs(runtime, None).await?;
        let result = self.run_build(tag, &inputs, force, progress).await;
        self.images.forget();
        result?;
        self.sweep(before).await;
        match self.standing(runtime).await? {
            Standing::Current(image) => Ok(Built { image, built: true }),
            Standing::Stale(_) | Standing::Absent => Err(Failure::new(
                FailureKind::ImageBuild,
                format!("`{tag}` was built and is not there now"),
            )
            .hint("something else builds under the same tag: see `docker images isol8`")),
        }
    }

    /// How the base image of a runtime stands.
    pub(super) async fn standing(&self, runtime: Runtime) -> Result<Standing, Failure> {
        let tag = base_tag(runtime);
        let found = match image::inspect(&self.client, &tag).await {
            Ok(found) => found,
            Err(asked) if asked.is_missing() => return Ok(Standing::Absent),
            Err(asked) => return Err(asked.into()),
        };
        if !image::is_base(&found, runtime) {
            return Ok(Standing::Absent);
        }
        let info = ImageInfo {
            runtime,
            tag,
            id: found.id.clone().unwrap_or_default(),
            size_bytes: u64::try_from(found.size.unwrap_or(0)).unwrap_or(0),
            packages: Vec::new(),
        };
        let built_on = image::label_of(&found, LABEL_BASE);
        let inputs = self.inputs(runtime, built_on).await?;
        let same = image::label_of(&found, LABEL_INPUTS) == Some(inputs.hash().as_str());
        Ok(if same {
            Standing::Current(info)
        } else {
            Standing::Stale(info)
        })
    }

    /// What would go in now. Where the image below is not on the engine there is
    /// no newer one either, and `built_on` stands.
    async fn inputs(&self, runtime: Runtime, built_on: Option<&str>) -> Result<Inputs, Failure> {
        let base = &self.settings.base_image;
        let base_id = match (image::inspect(&self.client, base).await, built_on) {
            (Ok(found), _) => found.id.unwrap_or_default(),
            (Err(asked), Some(built_on)) if asked.is_missing() => built_on.to_owned(),
            (Err(asked), _) => return Err(asked.into()),
        };
        Ok(Inputs {
            runtime,
            base_id,
            ca_bundle: self.ca_bundle().await?,
            arguments: BTreeMap::from([("BASE".into(), base.clone())]),
        })
    }

    /// The authorities of `network.caBundle`; empty where there is none.
    pub(super) async fn ca_bundle(&self) -> Result<Vec<u8>, Failure> {
        match &self.settings.ca_bundle {
            Some(path) => read_bundle(path).await,
            None => Ok(Vec::new()),
        }
    }

    async fn need_base_image(&self, progress: Progress<'_>) -> Result<(), Failure> {
        let base = &self.settings.base_image;
        match image::inspect(&self.client, base).await {
            Ok(_) => Ok(()),
            Err(asked) if asked.is_missing() => pull::pull(&self.client, base, progress).await,
            Err(asked) => Err(asked.into()),
        }
    }

    async fn run_build(
        &self,
        tag: &str,
        inputs: &Inputs,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let arguments = inputs.arguments.clone().into_iter().chain(proxies());
        let order = Order {
            tag,
            files: &[
                ("Dockerfile", DOCKERFILE.as_bytes()),
                (CA_BUNDLE, &inputs.ca_bundle),
            ],
            target: inputs.runtime.name(),
            arguments: arguments.collect(),
            labels: inputs.labels(),
            nocache: force,
            terms: None,
        };
        progress(&format!("building {tag}"));
        let built = self.order(&order, progress).await;
        built.map_err(|broken| {
            if broken.answered {
                self.build_failed(tag, &broken)
            } else {
                broken.failure
            }
        })
    }

    fn build_failed(&self, tag: &str, broken: &Broken) -> Failure {
        let failure = Failure::new(FailureKind::ImageBuild, format!("cannot build `{tag}`"));
        let causes = broken.failure.causes.iter();
        let failure = causes.fold(failure, Failure::cause);
        let last = broken.lines.join("\n");
        let failure = failure.cause(format!("the last lines were:\n{last}"));
        match &self.settings.ca_bundle {
            Some(path) => failure.hint(format!(
                "the build used the authorities of `{}` and this host's proxy settings; \
                 try again with `isol8 setup --force`",
                path.display()
            )),
            None => failure.hint(
                "on a network that re-signs TLS set `network.caBundle` in the config, \
                 then try again with `isol8 setup`",
            ),
        }
    }

    /// Removes the image that lost its tag to a newer one, unless a container
    /// still uses it: then it is tried again after the next build. Nothing else
    /// is looked for, since what people build on our images looks the same.
    pub(super) async fn sweep(&self, before: Option<String>) {
        let mut outdated = self.images.take_outdated();
        outdated.extend(before);
        for id in outdated {
            let tagged = match image::inspect(&self.client, &id).await {
                Ok(found) => found.repo_tags.is_some_and(|tags| !tags.is_empty()),
                // It is gone.
                Err(_) => true,
            };
            if tagged {
                continue;
            }
            let name = id.clone();
            let options = RemoveImageOptionsBuilder::new().build();
            let removed = self
                .client
                .ask("remove an image", REMOVE, |docker| async move {
                    docker.remove_image(&name, Some(options), None).await
                })
                .await;
            if removed.is_err() {
                self.images.add_outdated(id);
            }
        }
    }
}

/// The proxies of this process's environment, as build arguments.
pub(super) fn proxies() -> impl Iterator<Item = (String, String)> {
    PROXIES.into_iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some((name.to_owned(), value))
    })
}

async fn read_bundle(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |cause: String| {
        Failure::new(
            FailureKind::HostLacks,
            format!("cannot use `network.caBundle`, `{}`", path.display()),
        )
        .cause(cause)
    };
    let meta = tokio::fs::metadata(path).await;
    let meta = meta.map_err(|error| failed(error.to_string()))?;
    if !meta.is_file() || meta.len() > MAX_CA_BUNDLE_BYTES {
        return Err(failed(format!(
            "it is no file of at most {} MiB",
            MAX_CA_BUNDLE_BYTES >> 20
        )));
    }
    let bundle = tokio::fs::read(path).await;
    bundle.map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        Inputs {
            runtime: Runtime::Bash,
            base_id: "sha256:1".into(),
            ca_bundle: b"pem".to_vec(),
            arguments: BTreeMap::from([("A".into(), "B".into())]),
        }
    }

    #[test]
    fn every_input_changes_the_hash_and_nothing_else_does() {
        let changes: [fn(&mut Inputs); 6] = [
            |inputs| inputs.runtime = Runtime::Node,
            |inputs| inputs.base_id = "sha256:2".into(),
            |inputs| inputs.ca_bundle.clear(),
            |inputs| inputs.arguments.clear(),
            |inputs| inputs.arguments = BTreeMap::from([("AB".into(), String::new())]),
            |inputs| {
                inputs.base_id = "sha256:1pe".into();
                inputs.ca_bundle = b"m".to_vec();
            },
        ];
        let before = inputs().hash();
        assert_eq!(inputs().hash(), before);
        assert_eq!(before.len(), 64);
        let mut seen = vec![before];
        for change in changes {
            let mut inputs = inputs();
            change(&mut inputs);
            assert!(!seen.contains(&inputs.hash()));
            seen.push(inputs.hash());
        }
    }

    #[test]
    fn every_runtime_has_its_stage() {
        for runtime in Runtime::ALL {
            let target = format!(" AS {runtime}\n");
            assert!(DOCKERFILE.contains(&target), "no stage{target}");
        }
    }
}
