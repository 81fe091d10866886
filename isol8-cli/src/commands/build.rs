//! `isol8 build`.

use isol8_core::{
    failure::{Failure, FailureKind},
    runtime::Runtime,
};
use isol8_proto::v1::{BuildRequest, image_service_client::ImageServiceClient};

use super::{answer, progress::follow};
use crate::{
    args::BuildArgs,
    connect,
    console::Console,
    exit::Exit,
    paths::Paths,
    plan::{listed, wire},
    settings,
};

/// Builds a custom image, or says that it is there. Its name goes to stdout.
pub(super) async fn build(
    args: &BuildArgs,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let base = args.base.parse::<Runtime>().map_err(|error| {
        Failure::new(FailureKind::InvalidRequest, error.to_string())
            .hint("write it like `isol8 build --base python --install numpy`")
    })?;
    let packages = listed(base, &args.install, "install")?;
    settings::load()?;
    let request = BuildRequest {
        base: wire(base).into(),
        packages: packages.iter().map(ToString::to_string).collect(),
        tag: args.tag.clone().unwrap_or_default(),
        force: args.force,
    };
    let link = connect::dial_or_start(paths, console).await?;
    let mut client = ImageServiceClient::new(link.channel);
    let events = client.build(request).await;
    let (last, done) = follow("build", events, console).await?;
    if done.built == 0 {
        console.say("nothing to do: the image is there with the same inputs");
    }
    let tag = last.map(|image| image.tag).unwrap_or_default();
    answer(format!("{tag}\n").as_bytes())
}
