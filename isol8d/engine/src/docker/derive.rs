//! Images with packages of their own system, made from other images.
//!
//! Such an image is named by a hash of what it was made from, so that it is
//! found again without work. Its packages are installed as root in a build, by
//! the manager that the image brings: their maintainers' scripts run there,
//! within the limits of the run that wants them. The step is on the engine's
//! default network, which no filter of ours is in, or on none where the run has
//! none: then an image that is there already serves, and no other can be made.
//! Whoever orders one for a run with a filter judges the manager's hosts before;
//! where these redirect to, and what scripts reach, is not judged.

use std::{collections::HashMap, sync::Arc};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::RunId,
    package::{Package, sorted},
    runtime::Runtime,
    sandbox::{ImageName, Limits, Network, SandboxKey},
};

use super::{
    Inner,
    build::{CA_BUNDLE, LABEL_BASE, LABEL_INPUTS, proxies},
    builder::{Broken, Order, Terms, fingerprint, is_builders_own},
    client::ASK,
    image::{self, LABEL_FOREIGN, LABEL_RUNTIME, base_tag},
};
use crate::{Progress, hardening::LABEL_MANAGED};

pub(super) mod leftovers;

use leftovers::{Fate, LABEL_BUILD};

pub(super) const INSTALL: &str = include_str!("derive/install.sh");
/// Counts up when the same packages would turn out in another way.
const RECIPE: &str = "1";
/// The packages, with spaces between. An image that has it is a derived one.
const LABEL_PACKAGES: &str = "isol8.packages";
/// Hex digits of the hash that go into the name.
const NAME_DIGITS: usize = 12;
/// What the kernel's out-of-memory killer leaves of a step, as builders say it.
const KILLED: &str = "non-zero code: 137";

/// What a derived image is made from.
#[derive(Debug)]
struct Origin {
    runtime: Runtime,
    base_id: String,
    /// Who the image's programs run as by default, which stays.
    user: String,
    /// It is none of ours: its interpreter is searched in its PATH.
    foreign: bool,
    /// Sorted, each once.
    packages: Vec<Package>,
}

impl Origin {
    fn hash(&self) -> String {
        let fixed = [RECIPE, INSTALL, self.runtime.name(), &self.base_id];
        let packages = self.packages.iter().map(Package::as_str);
        fingerprint(fixed.into_iter().chain(packages).map(str::as_bytes))
    }

    fn tag(&self, hash: &str) -> String {
        format!("{}-{}", base_tag(self.runtime), &hash[..NAME_DIGITS])
    }

    fn listed(&self, between: &str) -> String {
        let names: Vec<&str> = self.packages.iter().map(Package::as_str).collect();
        names.join(between)
    }

    /// The labels come first, so that whatever the build makes carries them. The
    /// names of packages come to the script in a file and meet no shell's syntax;
    /// nothing that stands here has a sign of a Dockerfile's own.
    fn dockerfile(&self, hash: &str, build: &RunId) -> String {
        let foreign = if self.foreign { "1" } else { "" };
        let labels = [
            (LABEL_BUILD, build.as_str()),
            (LABEL_MANAGED, "1"),
            (LABEL_RUNTIME, self.runtime.name()),
            (LABEL_INPUTS, hash),
            (LABEL_BASE, &self.base_id),
            (LABEL_FOREIGN, foreign),
            (LABEL_PACKAGES, &self.listed(" ")),
        ]
        .map(|(name, value)| format!("{name}=\"{value}\""));
        format!(
            "FROM {}\n\
             LABEL {}\n\
             USER 0:0\n\
             COPY install.sh packages {CA_BUNDLE} /isol8-install/\n\
             RUN [\"/bin/sh\", \"/isol8-install/install.sh\"]\n\
             ARG ISOL8_USER\n\
             USER ${{ISOL8_USER}}\n",
            self.base_id,
            labels.join(" "),
        )
    }
}

impl Inner {
    /// Makes an image with packages, or finds it. One build of an image at a
    /// time; who comes second finds it there.
    ///
    /// # Errors
    /// `InstallFailed` with what the manager said last; `ImageMissing` when the
    /// image of `key` is not there.
    ///
    /// # Cancellation
    /// A dropped future ends the build, and what it has made goes.
    pub(super) async fn derive(
        self: &Arc<Self>,
        key: &SandboxKey,
        packages: &[Package],
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Result<ImageName, Failure> {
        let origin = self.origin(key, packages).await?;
        let hash = origin.hash();
        let tag = origin.tag(&hash);
        let name = name_of(&tag)?;
        let make = async {
            if self.is_derived(&tag, &hash).await? {
                return Ok(());
            }
            let online = key.network != Network::None;
            let terms = Terms::of(limits, self.facts().await?.cores, online);
            self.install(&origin, &hash, &tag, terms, progress).await?;
            self.images.forget();
            self.evict(&tag).await;
            Ok(())
        };
        self.images.alone(&tag, progress, make).await?;
        Ok(name)
    }

    /// What [`Inner::derive`] would find.
    pub(super) async fn find_derived(
        &self,
        key: &SandboxKey,
        packages: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        let origin = self.origin(key, packages).await?;
        let hash = origin.hash();
        let tag = origin.tag(&hash);
        let found = self.is_derived(&tag, &hash).await?;
        found.then(|| name_of(&tag)).transpose()
    }

    async fn origin(&self, key: &SandboxKey, packages: &[Package]) -> Result<Origin, Failure> {
        let base = self.images.resolve(&self.client, key).await?;
        let inspected = image::inspect(&self.client, &base.id).await?;
        Ok(Origin {
            runtime: key.runtime,
            base_id: base.id.clone(),
            // Only images of ours hold what a parked interpreter needs.
            foreign: !base.interpreter.parkable,
            user: inspected
                .config
                .and_then(|config| config.user)
                .filter(|user| !user.is_empty())
                .unwrap_or_else(|| "0:0".into()),
            packages: sorted(packages.iter().cloned()),
        })
    }

    /// Whether it is there. To be looked for counts as use.
    async fn is_derived(&self, tag: &str, hash: &str) -> Result<bool, Failure> {
        let found = match image::inspect(&self.client, tag).await {
            Ok(found) => found,
            Err(asked) if asked.is_missing() => return Ok(false),
            Err(asked) => return Err(asked.into()),
        };
        let is = |label, value| image::label_of(&found, label) == Some(value);
        if !is(LABEL_MANAGED, "1") || !is(LABEL_INPUTS, hash) {
            return Ok(false);
        }
        self.touch(tag).await;
        Ok(true)
    }

    async fn install(
        self: &Arc<Self>,
        origin: &Origin,
        hash: &str,
        tag: &str,
        terms: Terms,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let build = RunId::random();
        let dockerfile = origin.dockerfile(hash, &build);
        let packages = origin.listed("\n") + "\n";
        // A proxy that asks for a password does not get it here: packages bring
        // scripts, and each of them could read it.
        let proxies = proxies().filter(|(_, value)| !value.contains('@'));
        let user = ("ISOL8_USER".to_owned(), origin.user.clone());
        let order = Order {
            tag,
            files: &[
                ("Dockerfile", dockerfile.as_bytes()),
                ("install.sh", INSTALL.as_bytes()),
                ("packages", packages.as_bytes()),
                (CA_BUNDLE, &self.ca_bundle().await?),
            ],
            target: "",
            arguments: proxies.chain([user]).collect(),
            labels: HashMap::new(),
            // Who removes an image wants its packages new.
            nocache: true,
            terms: Some(terms),
        };
        progress(&format!("installing {} into {tag}", origin.listed(", ")));
        let of_manager = |line: &str| {
            if !is_builders_own(line) {
                progress(line);
            }
        };
        let (tell, swept) = self.watch(build);
        let Err(broken) = self.order(&order, &of_manager).await else {
            let _ = tell.send(Fate::Made);
            return Ok(());
        };
        let fate = if broken.answered {
            Fate::Failed
        } else {
            Fate::Unknown
        };
        let _ = tell.send(fate);
        drop(swept.await);
        Err(install_failed(origin, &broken))
    }

    /// Notes a use where the engine keeps it: the time of an image's last tag.
    async fn touch(&self, tag: &str) {
        let Some((repo, label)) = tag.split_once(':') else {
            return;
        };
        let options = bollard::query_parameters::TagImageOptionsBuilder::new()
            .repo(repo)
            .tag(label)
            .build();
        let touched = self
            .client
            .ask("tag an image", ASK, |docker| async move {
                docker.tag_image(tag, Some(options)).await
            })
            .await;
        if let Err(asked) = touched {
            let error = Failure::from(asked);
            tracing::debug!(tag, %error, "a use of an image is not noted");
        }
    }
}

fn name_of(tag: &str) -> Result<ImageName, Failure> {
    ImageName::parse(tag).map_err(|error| {
        Failure::new(FailureKind::Internal, "a derived image has no name").because(&error)
    })
}

fn install_failed(origin: &Origin, broken: &Broken) -> Failure {
    if !broken.answered || broken.failure.kind == FailureKind::NoSpace {
        return broken.failure.clone();
    }
    let message = format!("cannot install {}", quoted(&origin.packages));
    let failure = Failure::new(FailureKind::InstallFailed, message);
    let failure = if broken.lines.is_empty() {
        failure
    } else {
        failure.cause(format!("the last lines were:\n{}", broken.lines.join("\n")))
    };
    let causes = &broken.failure.causes;
    let killed = causes.iter().any(|cause| cause.contains(KILLED));
    let failure = causes.iter().fold(failure, Failure::cause);
    failure.hint(match killed {
        true => "it may need more memory: try `--memory 1g`",
        false => "check the names: they are those of the image's own package manager",
    })
}

fn quoted(packages: &[Package]) -> String {
    let quoted: Vec<String> = packages.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(packages: &[&str]) -> Origin {
        Origin {
            runtime: Runtime::Bash,
            base_id: "sha256:1".into(),
            user: "65534:65534".into(),
            foreign: false,
            packages: Package::parse_all(Runtime::Bash, packages).unwrap(),
        }
    }

    #[test]
    fn the_same_packages_have_the_same_name() {
        let name = |packages: &[&str]| {
            let origin = origin(packages);
            origin.tag(&origin.hash())
        };
        let of_both = name(&["jq", "file"]);
        assert_eq!(of_both, name(&["file", "jq", "jq"]));
        assert_ne!(of_both, name(&["jq"]));
        assert_ne!(name(&["ab", "c"]), name(&["a", "bc"]));
        let digits = of_both.strip_prefix("isol8:bash-").unwrap();
        assert_eq!(digits.len(), 12);
        assert!(ImageName::parse(&of_both).is_ok());
    }

    #[test]
    fn another_base_is_another_image() {
        let mut origin = origin(&["jq"]);
        let before = origin.hash();
        origin.base_id = "sha256:2".into();
        let after = origin.hash();
        origin.runtime = Runtime::Python;
        assert_ne!(before, after);
        assert_ne!(after, origin.hash());
    }

    #[test]
    fn the_labels_come_before_any_step() {
        let build = RunId::random();
        let text = origin(&["jq", "file"]).dockerfile("0123", &build);
        let lines: Vec<&str> = text.lines().collect();
        let labels = format!(
            "LABEL isol8.build=\"{build}\" isol8.managed=\"1\" isol8.runtime=\"bash\" \
             isol8.inputs=\"0123\" isol8.base=\"sha256:1\" isol8.foreign=\"\" \
             isol8.packages=\"file jq\""
        );
        assert_eq!(lines[..2], ["FROM sha256:1", &labels]);
        assert!(text.ends_with("USER ${ISOL8_USER}\n"));
        assert_eq!(text.matches("jq").count(), 1, "it is in a label alone");
    }

    #[test]
    fn a_failure_shows_what_was_said_last() {
        let broken = |kind, cause: &str, answered| Broken {
            failure: Failure::new(kind, "cannot build an image").cause(cause),
            answered,
            lines: vec!["E: no such package".into()],
        };
        let failed = |broken| install_failed(&origin(&["jq", "file"]), &broken);
        let usual = failed(broken(FailureKind::EngineRefused, "code: 100", true));
        assert_eq!(usual.kind, FailureKind::InstallFailed);
        assert_eq!(usual.message, "cannot install `file`, `jq`");
        assert_eq!(
            usual.causes,
            ["the last lines were:\nE: no such package", "code: 100"]
        );
        assert!(usual.hint.unwrap().contains("names"));
        let killed = failed(broken(FailureKind::EngineRefused, KILLED, true));
        assert!(killed.hint.unwrap().contains("--memory"));
        let late = failed(broken(FailureKind::EngineTimeout, "", false));
        assert_eq!(late.kind, FailureKind::EngineTimeout);
        let full = failed(broken(FailureKind::NoSpace, "", true));
        assert_eq!(full.kind, FailureKind::NoSpace);
    }
}
