//! What images with packages in them have in common, whoever orders one: what
//! they are made from, how they are found again, and the build that makes them.

use std::{collections::HashMap, sync::Arc};

use bollard::models::ImageInspect;
use isol8_core::{
    failure::Failure,
    package::{Package, sorted},
    runtime::Runtime,
};

use super::{
    Inner,
    build::{CA_BUNDLE, LABEL_BASE, LABEL_INPUTS, proxies},
    builder::{Broken, Order, Terms, fingerprint},
    derive::leftovers::{Fate, LABEL_BUILD, LABEL_WHOLE, Mark},
    image::{self, Image, LABEL_RUNTIME},
};
use crate::{Progress, hardening::LABEL_MANAGED};

/// Hex digits of the hash that go into the name.
pub(super) const NAME_DIGITS: usize = 12;

/// What an image with packages is made from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) runtime: Runtime,
    pub(super) base_id: String,
    /// Who the image's programs run as by default, which stays.
    pub(super) user: String,
    /// Sorted, each once.
    pub(super) packages: Vec<Package>,
}

/// How the packages get in.
pub(super) struct Step<'a> {
    /// The name that the image gets.
    pub(super) tag: &'a str,
    /// Of what it is made from.
    pub(super) hash: &'a str,
    /// What installs them: gets the runtime for an argument, and their names in
    /// a file beside it, so that they meet no shell's syntax.
    pub(super) script: &'a str,
    /// Behind those that every such image has.
    pub(super) labels: &'a [(&'a str, &'a str)],
    /// Lines of a Dockerfile for whatever runs in the image.
    pub(super) surroundings: &'a str,
    /// Labels of the image alone, whose values no Dockerfile could hold.
    pub(super) last_labels: HashMap<String, String>,
    /// `None`: whatever the engine has.
    pub(super) terms: Option<Terms>,
}

impl Origin {
    /// Names what it is made from: `recipe` counts up when the same packages
    /// would turn out in another way.
    pub(super) fn hash(&self, recipe: &str, script: &str) -> String {
        let fixed = [recipe, script, self.runtime.name(), &self.base_id];
        let packages = self.packages.iter().map(Package::as_str);
        fingerprint(fixed.into_iter().chain(packages).map(str::as_bytes))
    }

    pub(super) fn listed(&self, between: &str) -> String {
        let names: Vec<&str> = self.packages.iter().map(Package::as_str).collect();
        names.join(between)
    }

    /// The labels come first, so that whatever the build makes carries them.
    pub(super) fn dockerfile(&self, step: &Step<'_>, build: &Mark) -> String {
        let usual = [
            (LABEL_BUILD, build.as_str()),
            (LABEL_MANAGED, "1"),
            (LABEL_RUNTIME, self.runtime.name()),
            (LABEL_INPUTS, step.hash),
            (LABEL_BASE, &self.base_id),
        ];
        let labels = usual.iter().chain(step.labels);
        let labels: Vec<String> = labels
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        format!(
            "FROM {}\n\
             LABEL {}\n\
             {}\
             USER 0:0\n\
             COPY install.sh packages {CA_BUNDLE} /isol8-install/\n\
             RUN [\"/bin/sh\", \"/isol8-install/install.sh\", \"{}\"]\n\
             ARG ISOL8_USER\n\
             USER ${{ISOL8_USER}}\n",
            self.base_id,
            labels.join(" "),
            step.surroundings,
            self.runtime,
        )
    }
}

impl Inner {
    /// What an image of `base` with these packages is made from.
    pub(super) async fn origin_of(
        &self,
        base: &Image,
        runtime: Runtime,
        packages: &[Package],
    ) -> Result<Origin, Failure> {
        let inspected = image::inspect(&self.client, &base.id).await?;
        let user = inspected.config.and_then(|config| config.user);
        Ok(Origin {
            runtime,
            base_id: base.id.clone(),
            user: user
                .filter(|user| !user.is_empty())
                .unwrap_or_else(|| "0:0".into()),
            packages: sorted(packages.iter().cloned()),
        })
    }

    /// The image of this name where it is there, ours, and made from the same.
    pub(super) async fn standing_with(
        &self,
        tag: &str,
        hash: &str,
    ) -> Result<Option<ImageInspect>, Failure> {
        let found = match image::inspect(&self.client, tag).await {
            Ok(found) => found,
            Err(asked) if asked.is_missing() => return Ok(None),
            Err(asked) => return Err(asked.into()),
        };
        let is = |label, value| image::label_of(&found, label) == Some(value);
        let ours = is(LABEL_MANAGED, "1") && is(LABEL_INPUTS, hash);
        Ok(ours.then_some(found))
    }

    /// Builds it. Of a build that comes to nothing nothing stays.
    ///
    /// # Cancellation
    /// A dropped future ends the build, and what it has made goes.
    pub(super) async fn pack(
        self: &Arc<Self>,
        origin: &Origin,
        step: Step<'_>,
        progress: Progress<'_>,
    ) -> Result<(), Broken> {
        let build = Mark::new(&self.place.daemon);
        let dockerfile = origin.dockerfile(&step, &build);
        let packages = origin.listed("\n") + "\n";
        let unread = |failure| Broken {
            failure,
            answered: false,
            lines: Vec::new(),
        };
        let authorities = self.ca_bundle().await.map_err(unread)?;
        // A proxy that asks for a password does not get it here: packages bring
        // scripts, and each of them could read it.
        let proxies = proxies().filter(|(_, value)| !value.contains('@'));
        let user = ("ISOL8_USER".to_owned(), origin.user.clone());
        let mut last_labels = step.last_labels;
        last_labels.insert(LABEL_WHOLE.to_owned(), "1".to_owned());
        let order = Order {
            tag: step.tag,
            files: &[
                ("Dockerfile", dockerfile.as_bytes()),
                ("install.sh", step.script.as_bytes()),
                ("packages", packages.as_bytes()),
                (CA_BUNDLE, &authorities),
            ],
            target: "",
            arguments: proxies.chain([user]).collect(),
            labels: last_labels,
            // Whoever has an image built again wants its packages new.
            nocache: true,
            terms: step.terms,
        };
        let (tell, swept) = self.watch(build);
        let Err(broken) = self.order(&order, progress).await else {
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
        Err(broken)
    }
}
