//! From what a key names to an image that is there: its id, its interpreter,
//! and what it declares that a sandbox must know.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{Docker, models::ImageInspect, query_parameters::ListImagesOptionsBuilder};
use isol8_core::{
    failure::{Failure, FailureKind},
    package::Package,
    runtime::Runtime,
    sandbox::{ImageName, SandboxKey},
};
use tokio::time::Instant;

use super::{
    build::LABEL_INPUTS,
    client::{ASK, Asked, Client},
    custom::{DENO_FOLDER, LABEL_CUSTOM, is_custom_tag},
};
use crate::{
    ImageInfo, Interpreter, Progress,
    hardening::{LABEL_MANAGED, Volume},
};

/// What the tags of all images of ours begin with.
pub(super) const OWN_NAME: &str = "isol8:";
/// The runtime of a base image.
pub(super) const LABEL_RUNTIME: &str = "isol8.runtime";
/// Set to `1` on an image that we made from somebody else's.
pub(super) const LABEL_FOREIGN: &str = "isol8.foreign";

/// A tag may move by other hands: it is looked up again after so long. An id
/// that has gone is noticed at once.
const FRESH: Duration = Duration::from_secs(10);
/// What containers get that declare no PATH: the engine's own.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image that was there a moment ago.
#[derive(Debug)]
pub(super) struct Image {
    /// The engine's id for it, which never means another image.
    pub(super) id: String,
    pub(super) interpreter: Interpreter,
    /// Folders that it wants to be volumes.
    pub(super) volumes: Vec<String>,
    /// What we noted of what it was made from; people's images inherit that.
    pub(super) inputs: Option<String>,
}

/// What is known about images.
#[derive(Debug, Default)]
pub(super) struct Images {
    known: Mutex<HashMap<(String, Runtime), Known>>,
    customs: Mutex<Option<(Instant, Arc<Vec<ImageInfo>>)>>,
    making: Mutex<HashMap<String, Arc<Making>>>,
    /// Ids of images of ours that a newer one replaced.
    outdated: Mutex<Vec<String>>,
}

/// What the one task holds that makes an image: how the last try failed.
type Making = tokio::sync::Mutex<Option<(Instant, Failure)>>;

#[derive(Debug)]
struct Known {
    image: Arc<Image>,
    seen: Instant,
}

impl Images {
    /// The image of a key.
    ///
    /// # Errors
    /// `ImageMissing` when the engine has none; `Unsupported` when it cannot be
    /// made safe; whatever asking the engine ends in.
    pub(super) async fn resolve(
        &self,
        client: &Client,
        key: &SandboxKey,
    ) -> Result<Arc<Image>, Failure> {
        self.named(client, key.runtime, key.image.as_ref()).await
    }

    /// The image of this name, or the base image of the runtime.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub(super) async fn named(
        &self,
        client: &Client,
        runtime: Runtime,
        name: Option<&ImageName>,
    ) -> Result<Arc<Image>, Failure> {
        let reference = reference_of(runtime, name)?;
        let slot = (reference.clone(), runtime);
        if let Some(image) = self.fresh(&slot) {
            return Ok(image);
        }
        let inspected = match inspect(client, &reference).await {
            Ok(inspected) => inspected,
            Err(asked) if asked.is_missing() => return Err(missing(name, &reference)),
            Err(asked) => return Err(asked.into()),
        };
        if name.is_none() && !is_base(&inspected, runtime) {
            return Err(missing(name, &reference).cause("what has that name was not made by isol8"));
        }
        let image = Arc::new(Image::read(inspected, runtime, &reference)?);
        let known = Known {
            image: Arc::clone(&image),
            seen: Instant::now(),
        };
        self.known().insert(slot, known);
        Ok(image)
    }

    /// Makes the next [`Images::resolve`] ask the engine.
    pub(super) fn forget(&self) {
        self.known().clear();
        *self.listed() = None;
    }

    /// Every custom image.
    ///
    /// # Errors
    /// Whatever asking the engine ends in.
    pub(super) async fn customs(&self, client: &Client) -> Result<Arc<Vec<ImageInfo>>, Failure> {
        if let Some((seen, all)) = &*self.listed()
            && seen.elapsed() < FRESH
        {
            return Ok(Arc::clone(all));
        }
        let mut all = list(client).await?;
        all.retain(|image| is_custom_tag(&image.tag));
        let all = Arc::new(all);
        *self.listed() = Some((Instant::now(), Arc::clone(&all)));
        Ok(all)
    }

    fn listed(&self) -> MutexGuard<'_, Option<(Instant, Arc<Vec<ImageInfo>>)>> {
        self.customs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an image, one task at a time for each. Who waited for another and
    /// sees it fail takes its failure for an answer instead of trying as well.
    pub(super) async fn alone<T>(
        &self,
        reference: &str,
        progress: Progress<'_>,
        make: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let asked = Instant::now();
        let making = self.making(reference);
        let mut last = if let Ok(last) = making.try_lock() {
            last
        } else {
            progress(&format!("waiting for `{reference}`, which is being made"));
            making.lock().await
        };
        match &*last {
            Some((at, failure)) if *at >= asked => return Err(failure.clone()),
            _ => {}
        }
        let made = make.await;
        let failed = made.as_ref().err();
        *last = failed.map(|failure| (Instant::now(), failure.clone()));
        made
    }

    fn making(&self, reference: &str) -> Arc<Making> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(making.entry(reference.to_owned()).or_default())
    }

    /// Ids that could not be removed yet.
    pub(super) fn take_outdated(&self) -> Vec<String> {
        std::mem::take(&mut *self.outdated())
    }

    /// Keeps an id for the next try.
    pub(super) fn add_outdated(&self, id: String) {
        self.outdated().push(id);
    }

    fn outdated(&self) -> MutexGuard<'_, Vec<String>> {
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, slot: &(String, Runtime)) -> Option<Arc<Image>> {
        let mut known = self.known();
        known.retain(|_, known| known.seen.elapsed() < FRESH);
        known.get(slot).map(|known| Arc::clone(&known.image))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, Runtime), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Image {
    fn read(inspected: ImageInspect, runtime: Runtime, reference: &str) -> Result<Self, Failure> {
        // Images that people build on ours inherit its labels, but not its name.
        // A custom image may be called by an alias and still has its name.
        let mut tags = inspected.repo_tags.iter().flatten();
        let ours = (reference.starts_with(OWN_NAME) || tags.any(|tag| is_custom_tag(tag)))
            && is_base(&inspected, runtime)
            && label_of(&inspected, LABEL_FOREIGN) != Some("1");
        let inputs = label_of(&inspected, LABEL_INPUTS).map(str::to_owned);
        let config = inspected.config.unwrap_or_default();
        let volumes = config.volumes.unwrap_or_default();
        if let Some(path) = volumes
            .iter()
            .find(|path| Volume::of(path) == Volume::Refused)
        {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!("the image `{reference}` wants a volume at `{path}`"),
            )
            .hint("use an image without that VOLUME line"));
        }
        let variable = |name| {
            config
                .env
                .iter()
                .flatten()
                .find_map(|pair| pair.strip_prefix(name))
        };
        let path = variable("PATH=").unwrap_or(DEFAULT_PATH);
        let program = if ours {
            base_interpreter(runtime)
        } else {
            runtime.executable()
        };
        let interpreter = Interpreter {
            program: program.to_owned(),
            path: path.to_owned(),
            parkable: ours,
            authorities: None,
            deno_dir: (ours && variable("DENO_DIR=") == Some(DENO_FOLDER))
                .then(|| DENO_FOLDER.to_owned()),
        };
        let id = inspected.id.ok_or_else(|| {
            Failure::new(
                FailureKind::EngineRefused,
                format!("the engine gives no id for `{reference}`"),
            )
        })?;
        Ok(Self {
            id,
            interpreter,
            volumes,
            inputs,
        })
    }
}

/// The tag of a runtime's base image.
pub(super) fn base_tag(runtime: Runtime) -> String {
    format!("{OWN_NAME}{runtime}")
}

/// Where `images/Dockerfile` puts the interpreters.
const fn base_interpreter(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "/usr/bin/python3",
        Runtime::Node => "/usr/local/bin/node",
        Runtime::Bun => "/usr/local/bin/bun",
        Runtime::Deno => "/usr/local/bin/deno",
        Runtime::Bash => "/bin/bash",
    }
}

/// Whether it is an image of ours with this runtime.
pub(super) fn is_base(inspected: &ImageInspect, runtime: Runtime) -> bool {
    let label = |name| label_of(inspected, name);
    label(LABEL_MANAGED) == Some("1") && label(LABEL_RUNTIME) == Some(runtime.name())
}

pub(super) fn label_of<'a>(inspected: &'a ImageInspect, name: &str) -> Option<&'a str> {
    let labels = inspected.config.as_ref()?.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

pub(super) async fn inspect(client: &Client, reference: &str) -> Result<ImageInspect, Asked> {
    let reference = reference.to_owned();
    client
        .ask("look at an image", ASK, |docker| async move {
            docker.inspect_image(&reference).await
        })
        .await
}

/// What to ask the engine for.
///
/// # Errors
/// `InvalidRequest` for a name that would change which question is asked: names
/// become part of a path.
pub(super) fn reference_of(runtime: Runtime, name: Option<&ImageName>) -> Result<String, Failure> {
    let Some(name) = name else {
        return Ok(base_tag(runtime));
    };
    let odd = |part: &str| part.is_empty() || part.bytes().all(|byte| byte == b'.');
    if name.as_str().split('/').any(odd) {
        return Err(Failure::new(
            FailureKind::InvalidRequest,
            format!("`{name}` is not an image name"),
        ));
    }
    Ok(name.as_str().to_owned())
}

fn missing(name: Option<&ImageName>, reference: &str) -> Failure {
    let failure = Failure::new(
        FailureKind::ImageMissing,
        format!("the image `{reference}` is not there"),
    );
    match name {
        None => failure.hint("build it with `isol8 setup`"),
        Some(_) if is_custom_tag(reference) => {
            failure.hint("build it with `isol8 build` or `isol8 setup`")
        }
        Some(_) => failure.hint(format!("get it with `docker pull {reference}`")),
    }
}

/// Every image of ours that has a tag.
pub(super) async fn list(client: &Client) -> Result<Vec<ImageInfo>, Failure> {
    let labels = HashMap::from([("label", vec![format!("{LABEL_MANAGED}=1")])]);
    let options = ListImagesOptionsBuilder::new()
        .filters(&own_keys(&labels))
        .build();
    let found = client
        .ask("list images", ASK, |docker: Docker| async move {
            docker.list_images(Some(options)).await
        })
        .await?;
    let mut images = Vec::new();
    for image in found {
        let runtime = image.labels.get(LABEL_RUNTIME);
        let Some(runtime) = runtime.and_then(|name| name.parse::<Runtime>().ok()) else {
            continue;
        };
        let own_packages = image.labels.get(LABEL_CUSTOM);
        let packages = own_packages.map_or_else(Vec::new, |text| packages_of(runtime, text));
        let own = image
            .repo_tags
            .iter()
            .filter(|tag| tag.starts_with(OWN_NAME));
        images.extend(own.map(|tag| ImageInfo {
            runtime,
            tag: tag.clone(),
            id: image.id.clone(),
            size_bytes: u64::try_from(image.size).unwrap_or(0),
            // Images that were made from a custom one inherit its label.
            packages: match is_custom_tag(tag) {
                true => packages.clone(),
                false => Vec::new(),
            },
        }));
    }
    images.sort_by(|a, b| (a.runtime, &a.tag).cmp(&(b.runtime, &b.tag)));
    Ok(images)
}

/// The packages of a label; none where it is not as we write it.
fn packages_of(runtime: Runtime, label: &str) -> Vec<Package> {
    let texts: Vec<String> = serde_json::from_str(label).unwrap_or_default();
    Package::parse_all(runtime, &texts).unwrap_or_default()
}

/// The shape that the option builders take.
pub(super) fn own_keys(filters: &HashMap<&str, Vec<String>>) -> HashMap<String, Vec<String>> {
    let own = |(name, values): (&&str, &Vec<String>)| ((*name).to_owned(), values.clone());
    filters.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use bollard::models::ImageConfig;

    use super::*;

    fn reference(name: Option<&str>) -> Result<String, Failure> {
        let name = name.map(|name| ImageName::parse(name).unwrap());
        reference_of(Runtime::Node, name.as_ref())
    }

    fn inspected(labels: &[(&str, &str)], volumes: &[&str]) -> ImageInspect {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ImageInspect {
            id: Some("sha256:1".into()),
            config: Some(ImageConfig {
                env: Some(vec!["A=B".into(), "PATH=/opt/bin:/bin".into()]),
                labels: Some(labels.iter().map(owned).collect()),
                volumes: Some(volumes.iter().map(|path| (*path).to_owned()).collect()),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        }
    }

    #[test]
    fn names_that_would_leave_their_path_are_refused() {
        assert_eq!(reference(None).unwrap(), "isol8:node");
        let reference = |name| reference(Some(name)).ok();
        assert_eq!(reference("node:24"), Some("node:24".into()));
        assert_eq!(
            reference("h:5000/a/b@sha256:1"),
            Some("h:5000/a/b@sha256:1".into())
        );
        for name in ["a/../../info", "a//b", "a/./b", "a/", "a/..."] {
            assert_eq!(reference(name), None, "{name}");
        }
    }

    #[test]
    fn an_image_of_ours_has_its_interpreter_at_a_known_place() {
        let labels = [(LABEL_MANAGED, "1"), (LABEL_RUNTIME, "node")];
        let read = |runtime, reference| {
            let image = Image::read(inspected(&labels, &[]), runtime, reference).unwrap();
            (image.interpreter.program, image.interpreter.parkable)
        };
        assert_eq!(
            read(Runtime::Node, "isol8:node"),
            ("/usr/local/bin/node".into(), true)
        );
        assert_eq!(
            read(Runtime::Python, "isol8:node"),
            ("python3".into(), false)
        );
        let foreign = [&labels[..], &[(LABEL_FOREIGN, "1")]].concat();
        let image = Image::read(inspected(&foreign, &[]), Runtime::Node, "isol8:node-1").unwrap();
        assert_eq!(image.interpreter.program, "node", "made from another's");
        // Labels are inherited by what is built on it.
        assert_eq!(read(Runtime::Node, "mine:1"), ("node".into(), false));
    }

    #[test]
    fn any_other_image_is_searched() {
        let image = Image::read(inspected(&[], &["/data"]), Runtime::Node, "x").unwrap();
        let expected = Interpreter {
            program: "node".into(),
            path: "/opt/bin:/bin".into(),
            parkable: false,
            authorities: None,
            deno_dir: None,
        };
        assert_eq!(image.interpreter, expected);
        assert_eq!(image.volumes, ["/data"]);
    }

    #[test]
    fn a_volume_over_what_programs_need_is_refused() {
        let failure = Image::read(inspected(&[], &["/data", "/etc"]), Runtime::Node, "x");
        assert_eq!(failure.unwrap_err().kind, FailureKind::Unsupported);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_failing_build_does_not_try_again() {
        let images = Images::default();
        let tries = std::sync::atomic::AtomicU32::new(0);
        let try_it = || {
            images.alone("x", &|_| (), async {
                tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err::<(), _>(Failure::new(FailureKind::ImageBuild, "no"))
            })
        };
        let (first, second) = tokio::join!(try_it(), try_it());
        assert_eq!(first.unwrap_err(), second.unwrap_err());
        assert_eq!(tries.load(std::sync::atomic::Ordering::Relaxed), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        try_it().await.unwrap_err();
        assert_eq!(tries.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}
