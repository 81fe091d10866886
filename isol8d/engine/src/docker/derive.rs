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
    package::Package,
    sandbox::{ImageName, Limits, Network, SandboxKey},
};

use super::{
    Inner,
    builder::{Broken, Terms, is_builders_own},
    image::{LABEL_FOREIGN, base_tag},
    packed::{NAME_DIGITS, Origin, Step},
};
use crate::Progress;

pub(super) mod leftovers;

pub(super) const INSTALL: &str = include_str!("derive/install.sh");
/// Counts up when the same packages would turn out in another way.
const RECIPE: &str = "1";
/// The packages, with spaces between. An image that has it is a derived one.
const LABEL_PACKAGES: &str = "isol8.packages";
/// What the kernel's out-of-memory killer leaves of a step, as builders say it.
const KILLED: &str = "non-zero code: 137";

/// What a derived image is made from.
#[derive(Debug)]
struct Derived {
    origin: Origin,
    /// The image below is none of ours: its interpreter is searched in its PATH.
    foreign: bool,
}

impl Derived {
    fn hash(&self) -> String {
        self.origin.hash(RECIPE, INSTALL)
    }

    fn tag(&self, hash: &str) -> String {
        let base = base_tag(self.origin.runtime);
        format!("{base}-{}", &hash[..NAME_DIGITS])
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
        let derived = self.derived(key, packages).await?;
        let hash = derived.hash();
        let tag = derived.tag(&hash);
        let name = name_of(&tag)?;
        let make = async {
            if self.is_derived(&tag, &hash).await? {
                return Ok(());
            }
            let online = key.network != Network::None;
            let terms = Terms::of(limits, self.facts().await?.cores, online);
            self.install(&derived, &hash, &tag, terms, progress).await?;
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
        let derived = self.derived(key, packages).await?;
        let hash = derived.hash();
        let tag = derived.tag(&hash);
        let found = self.is_derived(&tag, &hash).await?;
        found.then(|| name_of(&tag)).transpose()
    }

    async fn derived(&self, key: &SandboxKey, packages: &[Package]) -> Result<Derived, Failure> {
        let base = self.images.resolve(&self.client, key).await?;
        Ok(Derived {
            origin: self.origin_of(&base, key.runtime, packages).await?,
            // Only images of ours hold what a parked interpreter needs.
            foreign: !base.interpreter.parkable,
        })
    }

    /// Whether it is there. To be looked for counts as use.
    async fn is_derived(&self, tag: &str, hash: &str) -> Result<bool, Failure> {
        let found = self.standing_with(tag, hash).await?.is_some();
        if found {
            self.touch(tag).await;
        }
        Ok(found)
    }

    async fn install(
        self: &Arc<Self>,
        derived: &Derived,
        hash: &str,
        tag: &str,
        terms: Terms,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let origin = &derived.origin;
        progress(&format!("installing {} into {tag}", origin.listed(", ")));
        let of_manager = |line: &str| {
            if !is_builders_own(line) {
                progress(line);
            }
        };
        let step = Step {
            tag,
            hash,
            script: INSTALL,
            // Nothing that stands here has a sign of a Dockerfile's own.
            labels: &[
                (LABEL_FOREIGN, if derived.foreign { "1" } else { "" }),
                (LABEL_PACKAGES, &origin.listed(" ")),
            ],
            surroundings: "",
            last_labels: HashMap::new(),
            terms: Some(terms),
        };
        let packed = self.pack(origin, step, &of_manager).await;
        packed.map_err(|broken| install_failed(origin, &broken))
    }

    /// Notes a use where the engine keeps it: the time of an image's last tag.
    async fn touch(&self, tag: &str) {
        if let Err(error) = self.tag(tag, tag).await {
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
    use isol8_core::{ids::DaemonId, runtime::Runtime};

    use super::{leftovers::Mark, *};

    fn derived(packages: &[&str]) -> Derived {
        Derived {
            origin: Origin {
                runtime: Runtime::Bash,
                base_id: "sha256:1".into(),
                user: "65534:65534".into(),
                packages: Package::parse_all(Runtime::Bash, packages).unwrap(),
            },
            foreign: false,
        }
    }

    #[test]
    fn the_same_packages_have_the_same_name() {
        let name = |packages: &[&str]| {
            let derived = derived(packages);
            derived.tag(&derived.hash())
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
        let mut changed = derived(&["jq"]);
        let before = changed.hash();
        changed.origin.base_id = "sha256:2".into();
        let after = changed.hash();
        changed.origin.runtime = Runtime::Python;
        assert_ne!(before, after);
        assert_ne!(after, changed.hash());
    }

    #[test]
    fn the_labels_come_before_any_step() {
        let build = Mark::new(&DaemonId::random());
        let origin = derived(&["jq", "file"]).origin;
        let step = Step {
            tag: "x",
            hash: "0123",
            script: INSTALL,
            labels: &[(LABEL_FOREIGN, ""), (LABEL_PACKAGES, &origin.listed(" "))],
            surroundings: "",
            last_labels: HashMap::new(),
            terms: None,
        };
        let text = origin.dockerfile(&step, &build);
        let lines: Vec<&str> = text.lines().collect();
        let labels = format!(
            "LABEL isol8.build=\"{}\" isol8.managed=\"1\" isol8.runtime=\"bash\" \
             isol8.inputs=\"0123\" isol8.base=\"sha256:1\" isol8.foreign=\"\" \
             isol8.packages=\"file jq\"",
            build.as_str()
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
        let failed = |broken| install_failed(&derived(&["jq", "file"]).origin, &broken);
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
