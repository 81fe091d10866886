//! What builds leave: of one that came to nothing, everything; of those that
//! worked, images that nobody has used for long.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bollard::{
    models::{ContainerSummary, ImageSummary},
    query_parameters::{
        ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use isol8_core::{
    failure::Failure,
    ids::{DaemonId, RunId},
    runtime::Runtime,
};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use tracing::Instrument;

use super::{
    super::{
        Inner,
        client::{ASK, Asked, Budget, REMOVE},
        image::{self, base_tag},
        packed::NAME_DIGITS,
    },
    LABEL_PACKAGES,
};
use crate::presence;

/// The build that made it: on its containers, on each image of its steps, and on
/// the last of them, which stays.
pub(in crate::docker) const LABEL_BUILD: &str = "isol8.build";
/// On the last image of a build, and so on all that is made from it: what has it
/// is not left of a build that came to nothing.
pub(in crate::docker) const LABEL_WHOLE: &str = "isol8.whole";

/// How older engines write that an image has no tag.
const NO_TAG: &str = "<none>:<none>";

/// Derived images that stay, those used last. Each holds its packages and shares
/// the rest with its base.
const MOST_IMAGES: usize = 20;
/// Between two looks for what a build may still leave.
const AGAIN: Duration = Duration::from_millis(100);
/// Looks in a row that must find nothing when a builder was left alone in the
/// middle: it may be about to make its next container.
const QUIET_LOOKS: u32 = 10;
/// The longest that one build is looked after.
const SWEEP: Duration = Duration::from_secs(60);

/// How a build ended, for the task that clears up behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::docker) enum Fate {
    /// Its image is there.
    Made,
    /// The engine has stopped it.
    Failed,
    /// Nobody knows what the engine is doing with it.
    Unknown,
}

/// The value of [`LABEL_BUILD`]: whose build it is, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::docker) struct Mark(String);

impl Mark {
    pub(in crate::docker) fn new(daemon: &DaemonId) -> Self {
        Self(format!("{daemon}-{}", RunId::random()))
    }

    pub(in crate::docker) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The daemon that has made a mark.
fn maker(mark: &str) -> Option<DaemonId> {
    DaemonId::parse(mark.split_once('-')?.0)
}

/// The builds of this process.
#[derive(Debug, Default)]
pub(in crate::docker) struct Builds {
    /// Marks of those that somebody looks after.
    going: Mutex<BTreeSet<String>>,
    /// What other processes left was looked for.
    cleared: AtomicBool,
}

impl Builds {
    fn going(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Starts a task that clears up behind a build, also when the future that
    /// waits for the build is dropped, and with it the sender.
    pub(in crate::docker) fn watch(
        self: &Arc<Self>,
        build: Mark,
    ) -> (oneshot::Sender<Fate>, JoinHandle<()>) {
        let (tell, told) = oneshot::channel();
        let inner = Arc::clone(self);
        let span = tracing::debug_span!("build", build = build.as_str());
        self.builds.going().insert(build.as_str().to_owned());
        let task = async move {
            match told.await.unwrap_or(Fate::Unknown) {
                Fate::Made => {}
                Fate::Failed => inner.clear(build.as_str(), 1).await,
                Fate::Unknown => inner.clear(build.as_str(), QUIET_LOOKS).await,
            }
            inner.builds.going().remove(build.as_str());
        };
        (tell, self.tasks.spawn(task.instrument(span)))
    }

    /// Starts a task that clears up behind builds whose daemon ended before they
    /// did: an earlier life of this one, or another that is dead. Once in a life,
    /// and to be called when the engine has answered.
    pub(in crate::docker) fn clear_abandoned(self: &Arc<Self>) {
        if self.builds.cleared.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(asked) = inner.clear_abandoned_once().await {
                let error = Failure::from(asked);
                tracing::warn!(%error, "cannot look for what builds left");
                inner.builds.cleared.store(false, Ordering::Relaxed);
            }
        });
    }

    async fn clear_abandoned_once(&self) -> Result<(), Asked> {
        let images = self.images_with(LABEL_BUILD, true).await?;
        let containers = self.containers_with(LABEL_BUILD).await?;
        let of_images = images.iter().map(|image| &image.labels);
        let of_containers = containers.iter().filter_map(|found| found.labels.as_ref());
        let marks = unfinished(of_images.chain(of_containers));
        for mark in marks {
            let Some(daemon) = maker(mark) else { continue };
            let lives = if daemon == self.place.daemon {
                // Listed before: one that is not going now was not begun here, or
                // has been cleared up behind.
                self.builds.going().contains(mark)
            } else {
                presence::is_alive(&daemon)
            };
            if !lives {
                self.clear(mark, 1).await;
            }
        }
        Ok(())
    }

    /// Removes what carries the mark of a build until `quiet` looks in a row find
    /// nothing.
    async fn clear(&self, build: &str, quiet: u32) {
        let budget = Budget::of(SWEEP);
        let mut empty = 0;
        loop {
            match self.clear_once(build).await {
                Ok(0) => empty += 1,
                Ok(_) => empty = 0,
                Err(asked) => {
                    let error = Failure::from(asked);
                    tracing::warn!(%error, "cannot look for what a build left");
                    return;
                }
            }
            if empty >= quiet {
                return;
            }
            if budget.is_over() {
                tracing::warn!("something of a build stays");
                return;
            }
            sleep(AGAIN).await;
        }
    }

    /// How much there was.
    async fn clear_once(&self, build: &str) -> Result<usize, Asked> {
        let mark = format!("{LABEL_BUILD}={build}");
        let images = self.images_with(&mark, true).await?;
        if images.iter().any(has_tag) {
            // It was whole before anybody turned away. Or it is what somebody has
            // built on it, which is not ours to take and needs every step.
            return Ok(0);
        }
        let containers = self.containers_with(&mark).await?;
        for id in containers.iter().filter_map(|found| found.id.as_ref()) {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true);
            let options = options.build();
            let removed = self.client.ask("remove a container", REMOVE, |docker| {
                let id = id.clone();
                async move { docker.remove_container(&id, Some(options)).await }
            });
            // The engine may be doing the same: the next look tells.
            drop(removed.await);
        }
        let mut left: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
        // Each is the parent of the next, and goes only when that has gone.
        for _ in 0..images.len() {
            let mut refused = Vec::new();
            for id in left {
                if self.remove_one(id).await.is_err() {
                    refused.push(id);
                }
            }
            left = refused;
        }
        Ok(containers.len() + images.len())
    }

    /// Removes derived images that were not used for longest, but not `newest`.
    pub(super) async fn evict(&self, newest: &str) {
        let derived = match self.images_with(LABEL_PACKAGES, false).await {
            Ok(derived) => derived,
            Err(asked) => {
                let error = Failure::from(asked);
                tracing::warn!(%error, "cannot list derived images");
                return;
            }
        };
        let tags: Vec<&str> = derived.iter().filter_map(own_tag).collect();
        if tags.len() <= MOST_IMAGES {
            return;
        }
        let mut used = Vec::new();
        for tag in tags {
            let Ok(found) = image::inspect(&self.client, tag).await else {
                continue;
            };
            let build = image::label_of(&found, LABEL_BUILD).map(str::to_owned);
            let last = found.metadata.and_then(|metadata| metadata.last_tag_time);
            used.push((last, tag, build));
        }
        // One clock wrote these texts, so their order is that of the times.
        used.sort();
        let over = used.len().saturating_sub(MOST_IMAGES);
        let old = used.into_iter().filter(|(_, tag, _)| *tag != newest);
        for (_, tag, build) in old.take(over) {
            // One that a container uses stays until the next time.
            if self.remove_one(tag).await.is_ok()
                && let Some(build) = build
            {
                self.clear(&build, 1).await;
            }
        }
        self.images.forget();
    }

    /// Removes one image and none of its parents: the base is not ours to take.
    async fn remove_one(&self, reference: &str) -> Result<(), Asked> {
        self.remove_named(reference, true).await
    }

    /// Images with a label, or with one of this value; with `steps`, also those
    /// that lie below others and have no name.
    pub(in crate::docker) async fn images_with(
        &self,
        label: &str,
        steps: bool,
    ) -> Result<Vec<ImageSummary>, Asked> {
        let filters = HashMap::from([("label", vec![label.to_owned()])]);
        let options = ListImagesOptionsBuilder::new()
            .all(steps)
            .filters(&image::own_keys(&filters))
            .build();
        let listed = self.client.ask("list images", ASK, |docker| async move {
            docker.list_images(Some(options)).await
        });
        listed.await
    }

    async fn containers_with(&self, label: &str) -> Result<Vec<ContainerSummary>, Asked> {
        let filters = HashMap::from([("label", vec![label.to_owned()])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&image::own_keys(&filters))
            .build();
        let listed = self
            .client
            .ask("list containers", ASK, |docker| async move {
                docker.list_containers(Some(options)).await
            });
        listed.await
    }
}

/// The marks of builds that came to nothing, from the labels of all that builds
/// made. Whatever runs in an image that is whole, or was built on it, has its
/// labels too.
fn unfinished<'a>(
    all: impl Iterator<Item = &'a HashMap<String, String>> + Clone,
) -> BTreeSet<&'a str> {
    let mark = |labels: &'a HashMap<String, String>| labels.get(LABEL_BUILD).map(String::as_str);
    let whole = all
        .clone()
        .filter(|labels| labels.contains_key(LABEL_WHOLE));
    let whole: BTreeSet<&str> = whole.filter_map(mark).collect();
    let marks = all.filter_map(mark);
    marks.filter(|mark| !whole.contains(mark)).collect()
}

fn has_tag(image: &ImageSummary) -> bool {
    image.repo_tags.iter().any(|tag| tag != NO_TAG)
}

/// The name that [`Inner::derive`] gave. What people build on it has its labels,
/// but not such a name.
fn own_tag(image: &ImageSummary) -> Option<&str> {
    let tags = image.repo_tags.iter().map(String::as_str);
    tags.into_iter().find(|tag| is_own_tag(tag))
}

fn is_own_tag(tag: &str) -> bool {
    let digits = Runtime::ALL.into_iter().find_map(|runtime| {
        let rest = tag.strip_prefix(&base_tag(runtime))?;
        rest.strip_prefix('-')
    });
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.is_some_and(|digits| digits.len() == NAME_DIGITS && digits.bytes().all(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_builds_that_came_to_nothing_are_abandoned() {
        let daemon = DaemonId::random();
        let (whole, broken) = (Mark::new(&daemon), Mark::new(&daemon));
        assert_eq!(maker(whole.as_str()), Some(daemon));
        assert_eq!(maker(RunId::random().as_str()), None, "of an older release");
        let step = |mark: &Mark| (LABEL_BUILD.to_owned(), mark.as_str().to_owned());
        let last = (LABEL_WHOLE.to_owned(), "1".to_owned());
        let all = [
            HashMap::from([step(&whole)]),
            HashMap::from([step(&whole), last]),
            HashMap::from([step(&broken)]),
            HashMap::from([step(&broken)]),
            HashMap::new(),
        ];
        let found = unfinished(all.iter());
        assert_eq!(found, BTreeSet::from([broken.as_str()]));
    }

    #[test]
    fn only_names_of_ours_are_ours_to_remove() {
        assert!(is_own_tag("isol8:bash-0123456789ab"));
        for tag in [
            "isol8:bash",
            "isol8:bash-",
            "isol8:bash-0123456789abc",
            "isol8:bash-0123456789aB",
            "isol8:mine-0123456789ab",
            "x/isol8:bash-0123456789ab",
            "<none>:<none>",
        ] {
            assert!(!is_own_tag(tag), "{tag}");
        }
    }
}
