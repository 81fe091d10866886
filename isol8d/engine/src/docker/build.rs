//! Base images: what goes in, whether that changed, and the build.
//!
//! An image carries a hash of everything it was made from. The same inputs give
//! the same hash, and then there is nothing to do.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::Path,
};

use bollard::query_parameters::{BuildImageOptionsBuilder, RemoveImageOptionsBuilder};
use data_encoding::HEXLOWER;
use isol8_core::{
    failure::{Failure, FailureKind},
    runtime::Runtime,
};
use sha2::{Digest, Sha256};

use super::{
    Inner,
    client::REMOVE,
    image::{self, LABEL_RUNTIME, base_tag},
    pull,
};
use crate::{Built, ImageInfo, Progress, hardening::LABEL_MANAGED};

const DOCKERFILE: &str = include_str!("../../../../images/Dockerfile");
/// The name that the Dockerfile knows the authorities by.
const CA_BUNDLE: &str = "ca-bundle.crt";
/// A bundle of every public authority has a quarter of a megabyte.
const MAX_CA_BUNDLE_BYTES: u64 = 4 << 20;

/// The hash of an image's inputs.
const LABEL_INPUTS: &str = "isol8.inputs";
/// The id of the image that it was built on.
const LABEL_BASE: &str = "isol8.base";
/// Counts up when labels or the build's own settings change their meaning.
const SCHEME: &str = "1";

/// Lines of a failed build that go into the failure.
const LAST_LINES: usize = 20;
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
    /// Each part with its length, so that no two lists of parts look the same.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        for part in [SCHEME, DOCKERFILE, self.runtime.name(), &self.base_id] {
            add(part.as_bytes());
        }
        add(&self.ca_bundle);
        for (name, value) in &self.arguments {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        HEXLOWER.encode(&hash.finalize())
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (LABEL_MANAGED.into(), "1".into()),
            (LABEL_RUNTIME.into(), self.runtime.name().into()),
            (LABEL_INPUTS.into(), self.hash()),
            (LABEL_BASE.into(), self.base_id.clone()),
        ])
    }

    fn context(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let files = [
            ("Dockerfile", DOCKERFILE.as_bytes()),
            (CA_BUNDLE, self.ca_bundle.as_slice()),
        ];
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, content)
                .expect("a vector takes every byte");
        }
        archive.into_inner().expect("a vector takes every byte")
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
        let ca_bundle = match &self.settings.ca_bundle {
            Some(path) => read_bundle(path).await?,
            None => Vec::new(),
        };
        Ok(Inputs {
            runtime,
            base_id,
            ca_bundle,
            arguments: BTreeMap::from([("BASE".into(), base.clone())]),
        })
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
        const CALL: &str = "build an image";
        let proxies = PROXIES.into_iter().filter_map(|name| {
            let value = std::env::var(name).ok()?;
            Some((name.to_owned(), value))
        });
        let arguments: HashMap<String, String> = inputs
            .arguments
            .clone()
            .into_iter()
            .chain(proxies)
            .collect();
        let options = BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .t(tag)
            .target(inputs.runtime.name())
            .buildargs(&arguments)
            .labels(&inputs.labels())
            .nocache(force)
            .rm(true)
            .forcerm(true)
            .build();
        let docker = self.client.docker(CALL)?;
        progress(&format!("building {tag}"));
        let body = bollard::body_full(inputs.context().into());
        let mut lines = Lines::default();
        let stream = docker.build_image(options, None, Some(body));
        let result = pull::follow(&self.client, CALL, stream, |info| {
            if let Some(error) = info.error_detail.and_then(|detail| detail.message) {
                return Err(bollard::errors::Error::DockerStreamError { error });
            }
            lines.push(info.stream.as_deref().unwrap_or_default(), progress);
            Ok(())
        })
        .await;
        lines.push("\n", progress);
        result.map_err(|asked| {
            let answered = asked.is_answer();
            let failure = Failure::from(asked);
            if answered {
                self.build_failed(tag, &failure, &lines)
            } else {
                failure
            }
        })
    }

    fn build_failed(&self, tag: &str, cause: &Failure, lines: &Lines) -> Failure {
        let failure = Failure::new(FailureKind::ImageBuild, format!("cannot build `{tag}`"));
        let failure = cause.causes.iter().fold(failure, Failure::cause);
        let last: Vec<&str> = lines.last.iter().map(String::as_str).collect();
        let failure = failure.cause(format!("the last lines were:\n{}", last.join("\n")));
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
    async fn sweep(&self, before: Option<String>) {
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

/// Makes lines of the pieces of a build's output and keeps the last.
#[derive(Debug, Default)]
struct Lines {
    open: String,
    last: VecDeque<String>,
}

impl Lines {
    fn push(&mut self, piece: &str, progress: Progress<'_>) {
        self.open.push_str(piece);
        while let Some((line, rest)) = self.open.split_once('\n') {
            let line = printable(line);
            self.open = rest.to_owned();
            if line.is_empty() {
                continue;
            }
            progress(&line);
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }
}

/// What a terminal would show at the end of a line, without escapes: package
/// scripts print what they like, and it goes to a person's terminal.
fn printable(line: &str) -> String {
    let shown = line.trim_end_matches('\r');
    let shown = shown.rsplit('\r').next().unwrap_or_default();
    let shown: String = shown.chars().filter(|c| !c.is_control()).collect();
    shown.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::Mutex};

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
    fn the_context_holds_two_files() {
        let context = inputs().context();
        let mut archive = tar::Archive::new(context.as_slice());
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.insert(name, text);
        }
        assert_eq!(files["ca-bundle.crt"], "pem");
        assert_eq!(files["Dockerfile"], DOCKERFILE);
        assert_eq!(files.len(), 2);
        for runtime in Runtime::ALL {
            let target = format!(" AS {runtime}\n");
            assert!(DOCKERFILE.contains(&target), "no stage{target}");
        }
    }

    #[test]
    fn pieces_become_lines_without_escapes() {
        let seen = Mutex::new(Vec::new());
        let progress = |line: &str| seen.lock().unwrap().push(line.to_owned());
        let mut lines = Lines::default();
        for piece in ["Step 1", "/2\n\n", "10%\r100%\r\n\u{1b}[31mred\n", "tail"] {
            lines.push(piece, &progress);
        }
        lines.push("\n", &progress);
        let expected = ["Step 1/2", "100%", "[31mred", "tail"];
        assert_eq!(*seen.lock().unwrap(), expected);
        for n in 0..50 {
            lines.push(&format!("{n}\n"), &progress);
        }
        assert_eq!(lines.last.len(), LAST_LINES);
        assert_eq!(lines.last.back().unwrap(), "49");
    }
}
