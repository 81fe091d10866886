//! `isol8 setup`.

use std::collections::BTreeMap;

use isol8_core::{
    config::{Resolved, Source},
    failure::Failure,
    package::{Package, sorted},
    runtime::Runtime,
};
use isol8_proto::v1::{
    RuntimePackages, SetupDone, SetupRequest, image_service_client::ImageServiceClient,
};

use super::{answer, progress::follow};
use crate::{
    args::SetupArgs,
    connect,
    console::Console,
    dependencies::Change,
    exit::Exit,
    paths::Paths,
    plan::{Written, listed, parsed, wire},
    settings,
};

/// What each runtime has in its custom image.
type Lists = BTreeMap<Runtime, Vec<Package>>;

/// Builds the base images that are missing or out of date, then the custom image
/// of each runtime with packages. Packages that were typed go into the
/// configuration when their images are there.
pub(super) async fn setup(
    args: &SetupArgs,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let typed = typed(args)?;
    let (settings, found) = settings::load_text()?;
    let mut lists = configured(&settings)?;
    let mut changed = Lists::new();
    for (runtime, packages) in typed {
        let list = lists.entry(runtime).or_default();
        let before = list.clone();
        add(runtime, list, packages);
        if *list != before {
            changed.insert(runtime, list.clone());
        }
    }
    let change = match changed.is_empty() {
        true => None,
        false => Some(Change::prepare(found, &changed)?),
    };
    let request = SetupRequest {
        force: args.force,
        runtimes: Vec::new(),
        dependencies: lists.iter().map(to_wire).collect(),
    };
    let link = connect::dial_or_start(paths, console).await?;
    let mut client = ImageServiceClient::new(link.channel);
    let events = client.setup(request).await;
    let (_, done) = follow("setup", events, console).await?;
    if let Some(change) = change {
        change.write()?;
        console.say(&format!("changed {}", change.path().display()));
    }
    answer(summary(done).as_bytes())
}

fn typed(args: &SetupArgs) -> Result<Lists, Failure> {
    let flags = [
        (Runtime::Python, &args.python),
        (Runtime::Node, &args.node),
        (Runtime::Bun, &args.bun),
        (Runtime::Deno, &args.deno),
        (Runtime::Bash, &args.bash),
    ];
    let given = flags.into_iter().filter(|(_, texts)| !texts.is_empty());
    let lists =
        given.map(|(runtime, texts)| Ok((runtime, listed(runtime, texts, runtime.name())?)));
    lists.collect()
}

/// What our own file says; the daemon knows its own.
fn configured(settings: &Resolved) -> Result<Lists, Failure> {
    let all = settings.config.dependencies.iter();
    let ours = all.filter(|(runtime, _)| {
        *settings.source(&format!("dependencies.{runtime}")) != Source::Default
    });
    let lists = ours.map(
        |(runtime, texts)| match parsed(*runtime, texts, Written::Configured) {
            Ok(packages) => Ok((*runtime, packages)),
            Err(failure) => {
                let place = format!("it stands in `dependencies.{runtime}` of the configuration");
                Err(failure.cause(place))
            }
        },
    );
    lists.collect()
}

/// A package that is there in another version is replaced.
fn add(runtime: Runtime, list: &mut Vec<Package>, packages: Vec<Package>) {
    list.retain(|old| !packages.iter().any(|new| new.is_same(runtime, old)));
    list.extend(packages);
    *list = sorted(list.drain(..));
}

fn to_wire((runtime, packages): (&Runtime, &Vec<Package>)) -> RuntimePackages {
    RuntimePackages {
        runtime: wire(*runtime).into(),
        packages: packages.iter().map(ToString::to_string).collect(),
    }
}

fn summary(done: SetupDone) -> String {
    match (done.built, done.unchanged) {
        (0, unchanged) => format!("nothing to do: {} up to date\n", images(unchanged)),
        (built, 0) => format!("{} built\n", images(built)),
        (built, unchanged) => format!("{} built, {unchanged} up to date\n", images(built)),
    }
}

fn images(count: u32) -> String {
    match count {
        1 => "1 image".to_owned(),
        count => format!("{count} images"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_replaces_the_one_before() {
        let runtime = Runtime::Python;
        let parse = |texts: &[&str]| Package::parse_all(runtime, texts).expect("good");
        let mut list = parse(&["numpy==1.0", "six"]);
        add(runtime, &mut list, parse(&["NumPy>=2", "attrs"]));
        assert_eq!(list, parse(&["NumPy>=2", "attrs", "six"]));
    }

    #[test]
    fn the_last_line_counts() {
        let text = |built, unchanged| summary(SetupDone { built, unchanged });
        assert_eq!(text(0, 5), "nothing to do: 5 images up to date\n");
        assert_eq!(text(1, 4), "1 image built, 4 up to date\n");
        assert_eq!(text(5, 0), "5 images built\n");
    }
}
