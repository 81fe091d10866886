//! Which custom image serves a run.

use bollard::models::ImageInspect;
use isol8_core::{
    failure::{Failure, FailureKind},
    package::{Package, sorted},
    runtime::Runtime,
    sandbox::ImageName,
};

use super::{
    super::{
        Inner,
        client::{ASK, REMOVE},
        image,
        packed::Origin,
    },
    hash_of, tag_of,
};
use crate::ImageInfo;

impl Inner {
    /// The custom image with exactly these packages, on the base image of now.
    pub(crate) async fn custom_with(
        &self,
        runtime: Runtime,
        packages: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        let Some(base_id) = self.base_id(runtime).await? else {
            return Ok(None);
        };
        let origin = Origin {
            runtime,
            base_id,
            user: String::new(),
            packages: sorted(packages.iter().cloned()),
        };
        let hash = hash_of(&origin);
        let name = name(&tag_of(runtime, &hash))?;
        match self.images.named(&self.client, runtime, Some(&name)).await {
            Ok(image) if image.inputs.as_deref() == Some(&hash) => Ok(Some(name)),
            Ok(_) => Ok(None),
            Err(failure) if failure.kind == FailureKind::ImageMissing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// A custom image, on the base image of now, that has all of these packages
    /// and as few others as there is one.
    pub(crate) async fn custom_holding(
        &self,
        runtime: Runtime,
        packages: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        let Some(base_id) = self.base_id(runtime).await? else {
            return Ok(None);
        };
        let all = self.images.customs(&self.client).await?;
        let met = |image: &&ImageInfo| {
            let is_met = |package: &Package| package.is_met_by(runtime, &image.packages);
            image.runtime == runtime && packages.iter().all(is_met)
        };
        let is_current = |image: &&ImageInfo| {
            // Labels alone prove nothing: they are inherited.
            let origin = Origin {
                runtime,
                base_id: base_id.clone(),
                user: String::new(),
                packages: image.packages.clone(),
            };
            image.tag == tag_of(runtime, &hash_of(&origin))
        };
        let serving = all.iter().filter(met).filter(is_current);
        let best = serving.min_by_key(|image| (image.packages.len(), &image.tag));
        best.map(|image| name(&image.tag)).transpose()
    }

    /// The id of a runtime's base image, where it is there.
    async fn base_id(&self, runtime: Runtime) -> Result<Option<String>, Failure> {
        match self.images.named(&self.client, runtime, None).await {
            Ok(base) => Ok(Some(base.id.clone())),
            Err(failure) if failure.kind == FailureKind::ImageMissing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Removes images of the same packages that no run is given any more, since
    /// their base image was replaced. One with an alias stays.
    pub(super) async fn drop_superseded(&self, origin: &Origin, tag: &str) {
        let all = match image::list(&self.client).await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "cannot look for outdated images");
                return;
            }
        };
        let superseded = all.into_iter().filter(|image| {
            let same = image.runtime == origin.runtime && image.packages == origin.packages;
            same && super::is_custom_tag(&image.tag) && image.tag != tag
        });
        for old in superseded {
            let named = image::inspect(&self.client, &old.tag).await;
            let has_alias =
                |found: ImageInspect| found.repo_tags.is_some_and(|tags| tags.len() > 1);
            if named.map_or(true, has_alias) {
                continue;
            }
            let name = old.tag.clone();
            let options = bollard::query_parameters::RemoveImageOptionsBuilder::new().build();
            let removed = self
                .client
                .ask("remove an image", REMOVE, |docker| async move {
                    docker.remove_image(&name, Some(options), None).await
                });
            // One that a container uses stays until the next build.
            if removed.await.is_err() {
                tracing::debug!(image = old.tag, "an outdated image is in use");
            }
        }
        self.images.forget();
    }

    /// Checks that an alias takes no name away from an image that is not a custom
    /// one: others may build on that, or run it.
    pub(super) async fn check_alias(&self, alias: &str) -> Result<(), Failure> {
        let taken = || {
            Failure::new(
                FailureKind::InvalidRequest,
                format!("`{alias}` is the name of another image"),
            )
            .hint("give `--tag` a name that no image has")
        };
        // Also where it is not there yet: base images are built on it.
        let base = &self.settings.base_image;
        if alias == base || alias.strip_suffix(":latest") == Some(base) {
            return Err(taken());
        }
        match image::inspect(&self.client, alias).await {
            Ok(found) => {
                let mut tags = found.repo_tags.iter().flatten();
                match tags.any(|tag| super::is_custom_tag(tag)) {
                    true => Ok(()),
                    false => Err(taken()),
                }
            }
            Err(asked) if asked.is_missing() => Ok(()),
            Err(asked) => Err(asked.into()),
        }
    }

    /// Gives an image another name.
    pub(in crate::docker) async fn tag(&self, image: &str, alias: &str) -> Result<(), Failure> {
        let Some((repository, label)) = alias.rsplit_once(':') else {
            return Err(Failure::new(
                FailureKind::Internal,
                format!("`{alias}` has no tag"),
            ));
        };
        let options = bollard::query_parameters::TagImageOptionsBuilder::new()
            .repo(repository)
            .tag(label)
            .build();
        let tagged = self.client.ask("tag an image", ASK, |docker| async move {
            docker.tag_image(image, Some(options)).await
        });
        tagged.await.map_err(Failure::from)
    }
}

fn name(tag: &str) -> Result<ImageName, Failure> {
    ImageName::parse(tag).map_err(|error| {
        Failure::new(FailureKind::Internal, "a custom image has no name").because(&error)
    })
}
