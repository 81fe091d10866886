//! Which images on an engine are ours, and their removal.
//!
//! A label alone proves nothing: what people build on our images inherits it.
//! Ours is what has a name that only we give, and what the engine's own record of
//! its steps shows to end with steps of ours: images that lost their name to a
//! newer one, and what builds left. An alias of a custom image goes with it;
//! other names that people gave stay theirs.

use std::time::{Duration, SystemTime};

use bollard::{
    models::{ContainerSummary, ImageHistoryResponseItem, ImageSummary},
    query_parameters::{ListContainersOptionsBuilder, RemoveImageOptionsBuilder},
};
use isol8_core::{
    failure::{Failure, FailureKind},
    runtime::Runtime,
};

use super::{
    Inner,
    client::{ASK, Asked, REMOVE},
    custom::{DENO_FOLDER, LABEL_CUSTOM},
    derive::leftovers::LABEL_BUILD,
    image::{self, LABEL_FOREIGN, base_tag},
    packed::NAME_DIGITS,
};
use crate::hardening::LABEL_MANAGED;

/// A younger image without a name may be a step of a build that goes on.
const SETTLED: Duration = Duration::from_secs(10 * 60);

impl Inner {
    /// The names of images of ours, and the ids of those that have none. What is
    /// built on others comes before them.
    ///
    /// # Errors
    /// Whatever asking the engine ends in.
    pub(super) async fn own_names(&self) -> Result<Vec<String>, Failure> {
        let labelled = self
            .images_with(&format!("{LABEL_MANAGED}=1"), false)
            .await?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let mut names = Vec::new();
        for image in &labelled {
            let tags = tags_of(image);
            let own = tags.iter().any(|tag| is_own(tag)) || self.is_made_by_us(&image.id).await?;
            if own {
                names.extend(to_remove(image, &tags, now));
            }
        }
        names.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
        Ok(names)
    }

    async fn is_made_by_us(&self, id: &str) -> Result<bool, Failure> {
        let history = self
            .client
            .ask("look at an image", ASK, |docker| async move {
                docker.image_history(id).await
            });
        match history.await {
            Ok(history) => Ok(ends_with_ours(&history)),
            Err(asked) if asked.is_missing() => Ok(false),
            Err(asked) => Err(asked.into()),
        }
    }

    /// Removes one name of an image, and the image with its last one. Does
    /// nothing where that name is not there or means another image by now.
    ///
    /// # Errors
    /// `EngineRefused` where a container was made from it.
    pub(super) async fn remove_own(&self, name: &str) -> Result<(), Failure> {
        let found = match image::inspect(&self.client, name).await {
            Ok(found) => found,
            Err(asked) if asked.is_missing() => return Ok(()),
            Err(asked) => return Err(asked.into()),
        };
        let label = |label| image::label_of(&found, label);
        if label(LABEL_MANAGED) != Some("1") {
            return Ok(());
        }
        // The engine itself looks only when it is at the last name.
        let id = found.id.as_deref().unwrap_or_default();
        if let Some(user) = self.container_of(id).await? {
            let message = format!("`{name}` is in use");
            return Err(Failure::new(FailureKind::EngineRefused, message)
                .cause(format!("the container `{user}` was made from it")));
        }
        // Below one that was made from somebody's image is that image, which may
        // have no name either: it is not ours to take.
        let foreign = label(LABEL_FOREIGN) == Some("1");
        let removed = self.remove_named(name, foreign).await;
        self.images.forget();
        match removed {
            Err(asked) if !asked.is_missing() => return Err(asked.into()),
            _ => {}
        }
        if foreign && let Some(build) = label(LABEL_BUILD) {
            self.remove_steps(build).await?;
        }
        Ok(())
    }

    /// Removes one name or id, and unless `noprune` what lies below it and has no
    /// name.
    pub(super) async fn remove_named(&self, name: &str, noprune: bool) -> Result<(), Asked> {
        let options = RemoveImageOptionsBuilder::new().noprune(noprune).build();
        let removed = self
            .client
            .ask("remove an image", REMOVE, |docker| async move {
                docker.remove_image(name, Some(options), None).await
            });
        removed.await.map(drop)
    }

    /// Removes what a build made on the way to its image, once that is gone.
    async fn remove_steps(&self, build: &str) -> Result<(), Failure> {
        let mark = format!("{LABEL_BUILD}={build}");
        let mut left = self.images_with(&mark, true).await?;
        loop {
            let before = left.len();
            let mut refused = Vec::new();
            // Each is the parent of another, and goes only when that has gone.
            for image in left {
                if self.remove_named(&image.id, true).await.is_err() {
                    refused.push(image);
                }
            }
            left = refused;
            // What is refused now is the image itself, by another name.
            if left.is_empty() || left.len() == before {
                return Ok(());
            }
        }
    }

    /// A container, running or not, that was made from this very image.
    async fn container_of(&self, image: &str) -> Result<Option<String>, Failure> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = self
            .client
            .ask("list containers", ASK, |docker| async move {
                docker.list_containers(Some(options)).await
            });
        let mut listed = listed.await?.into_iter();
        let user = listed.find(|container| container.image_id.as_deref() == Some(image));
        Ok(user.map(name_of))
    }
}

fn name_of(container: ContainerSummary) -> String {
    let name = container.names.unwrap_or_default().into_iter().next();
    let name = name.map(|name| name.trim_start_matches('/').to_owned());
    name.or(container.id).unwrap_or_default()
}

/// Its names; engines also write one that means none.
fn tags_of(image: &ImageSummary) -> Vec<&str> {
    let tags = image.repo_tags.iter().map(String::as_str);
    tags.filter(|tag| !tag.contains("<none>")).collect()
}

/// Of an image of ours. `now` counts from 1970.
fn to_remove(image: &ImageSummary, tags: &[&str], now: Duration) -> Vec<String> {
    if tags.is_empty() {
        let made = Duration::from_secs(u64::try_from(image.created).unwrap_or(0));
        let settled = now.saturating_sub(made) > SETTLED;
        return settled.then(|| image.id.clone()).into_iter().collect();
    }
    let with_aliases = image.labels.contains_key(LABEL_CUSTOM);
    let tags = tags.iter().filter(|tag| with_aliases || is_own(tag));
    tags.map(|tag| (*tag).to_owned()).collect()
}

/// Whether it is a name that only we give: of a base image, a custom one, or one
/// that was derived for a run.
fn is_own(tag: &str) -> bool {
    let rest = Runtime::ALL
        .into_iter()
        .find_map(|runtime| tag.strip_prefix(&base_tag(runtime)));
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_hash = |digits: &str| digits.len() == NAME_DIGITS && digits.bytes().all(hex);
    rest.is_some_and(|rest| {
        let hash = rest.strip_prefix("-custom").unwrap_or(rest);
        rest.is_empty() || hash.strip_prefix('-').is_some_and(is_hash)
    })
}

/// Base images lie below the others. What has no name is last: it may be what was
/// below something that goes before.
fn rank(name: &str) -> u8 {
    let is_base = |runtime| name == base_tag(runtime);
    if name.starts_with("sha256:") {
        2
    } else {
        u8::from(Runtime::ALL.into_iter().any(is_base))
    }
}

/// Whether the last steps, which come first, are those of a build of ours.
fn ends_with_ours(history: &[ImageHistoryResponseItem]) -> bool {
    let mut steps = history.iter().map(|step| step.created_by.as_str());
    let first_other = steps.find(|step| !is_install_step(step));
    first_other.is_some_and(|step| step.contains("LABEL isol8."))
}

/// What stands below the labels in the Dockerfile of an image with packages.
fn is_install_step(step: &str) -> bool {
    if step.contains("/isol8-install/") {
        return true;
    }
    let modules = format!("ENV DENO_DIR={DENO_FOLDER}");
    let instructions = [
        "ARG ISOL8_USER",
        "USER ",
        "ENV PATH=/node_modules/.bin:",
        &modules,
    ];
    // How the engine's builder writes that a step runs nothing.
    let step = step.trim_start_matches("/bin/sh -c #(nop)").trim_start();
    instructions.iter().any(|begin| step.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_by(steps: &[&str]) -> bool {
        let step = |step: &&str| ImageHistoryResponseItem {
            created_by: (*step).to_owned(),
            ..ImageHistoryResponseItem::default()
        };
        ends_with_ours(&steps.iter().map(step).collect::<Vec<_>>())
    }

    #[test]
    fn ours_ends_with_our_own_steps() {
        let labels = "/bin/sh -c #(nop)  LABEL isol8.managed=1";
        let package = "/bin/sh /isol8-install/install.sh python";
        assert!(made_by(&[labels, "CMD"]));
        assert!(made_by(&["LABEL isol8.runtime=bash # buildkit"]));
        assert!(made_by(&[
            "USER 65534:65534",
            "/bin/sh -c #(nop)  ARG ISOL8_USER",
            package,
            labels
        ]));
        assert!(made_by(&[
            "COPY multi:0 in /isol8-install/",
            "USER 0:0",
            labels
        ]));
        for theirs in [
            "RUN ENV USER 1",
            "COPY . /app",
            "CMD [\"bash\"]",
            "LABEL a=b",
        ] {
            assert!(!made_by(&[theirs, labels]), "{theirs}");
            assert!(!made_by(&["USER 1", theirs, "USER 0", labels]), "{theirs}");
        }
        assert!(!made_by(&[]));
        assert!(!made_by(&["USER 0:0"]));
    }

    #[test]
    fn only_names_of_ours_are_ours() {
        for own in [
            "isol8:python",
            "isol8:bash-0123456789ab",
            "isol8:deno-custom-0123456789ab",
        ] {
            assert!(is_own(own), "{own}");
        }
        for other in [
            "isol8:pythons",
            "isol8:bash-0123456789abc",
            "isol8:bash-0123456789aB",
            "isol8:bash-custom",
            "isol8:bash-custom-",
            "isol8:mine",
            "x/isol8:python",
            "mine:1",
        ] {
            assert!(!is_own(other), "{other}");
        }
    }

    fn removed(tags: &[&str], labels: &[&str], age: u64) -> Vec<String> {
        let image = ImageSummary {
            id: "sha256:1".into(),
            created: 1_000_000,
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            labels: labels
                .iter()
                .map(|label| ((*label).to_owned(), String::new()))
                .collect(),
            ..ImageSummary::default()
        };
        let now = Duration::from_secs(1_000_000 + age);
        to_remove(&image, &tags_of(&image), now)
    }

    #[test]
    fn an_alias_goes_with_its_custom_image_alone() {
        let tags = ["isol8:node-custom-0123456789ab", "mine:1"];
        assert_eq!(removed(&tags, &[LABEL_CUSTOM], 0), tags);
        assert_eq!(removed(&["mine:1"], &[LABEL_CUSTOM], 0), ["mine:1"]);
        assert_eq!(removed(&["isol8:node", "mine:1"], &[], 0), ["isol8:node"]);
        assert_eq!(removed(&["mine:1"], &[], 0), [""; 0]);
    }

    #[test]
    fn what_has_no_name_goes_when_it_is_no_step_any_more() {
        let old = SETTLED.as_secs() + 1;
        for tags in [&[][..], &["<none>:<none>"]] {
            assert_eq!(removed(tags, &[], old), ["sha256:1"]);
            assert_eq!(removed(tags, &[], old - 1), [""; 0]);
        }
    }

    #[test]
    fn what_is_built_on_others_goes_first() {
        let mut names = [
            "sha256:0",
            "isol8:bash",
            "zeta:1",
            "isol8:bash-0123456789ab",
        ];
        names.sort_by_key(|name| rank(name));
        assert_eq!(
            names,
            [
                "zeta:1",
                "isol8:bash-0123456789ab",
                "isol8:bash",
                "sha256:0"
            ]
        );
    }
}
