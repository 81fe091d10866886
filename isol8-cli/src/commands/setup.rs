//! `isol8 setup`.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use isol8_core::{
    failure::{Failure, FailureKind},
    runtime::Runtime,
};
use isol8_proto::v1::{
    BuildLine, ImageReady, SetupDone, SetupRequest, image_service_client::ImageServiceClient,
    setup_event::Event,
};

use super::answer;
use crate::{
    args::SetupArgs,
    connect::{self, unwanted},
    console::{Console, printable},
    exit::Exit,
    paths::Paths,
    plan::not_yet,
    report, settings,
};

const TICK: Duration = Duration::from_millis(120);

/// Builds the base images that are missing or out of date.
pub(super) async fn setup(
    args: &SetupArgs,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    refuse_packages(args)?;
    let settings = settings::load()?;
    for runtime in settings.config.dependencies.keys() {
        console.warning(&format!(
            "custom images are not there yet: `dependencies.{runtime}` is not built"
        ));
    }
    let link = connect::dial_or_start(paths, console).await?;
    let request = SetupRequest {
        force: args.force,
        runtimes: Vec::new(),
    };
    let mut client = ImageServiceClient::new(link.channel);
    let events = client.setup(request).await;
    let mut events = events.map_err(|status| unwanted(&status))?.into_inner();
    let progress = Progress::new();
    loop {
        let event = events.message().await.map_err(|status| {
            progress.clear();
            unwanted(&status)
        })?;
        match event.and_then(|event| event.event) {
            Some(Event::Line(line)) => progress.line(&line, console),
            Some(Event::Image(image)) => progress.image(&image, console),
            Some(Event::Done(done)) => {
                progress.clear();
                return answer(summary(done).as_bytes());
            }
            None => {
                progress.clear();
                let message = "the daemon ended the set-up without saying how";
                return Err(Failure::new(FailureKind::Internal, message)
                    .hint("`isol8 daemon logs` may say more"));
            }
        }
    }
}

fn refuse_packages(args: &SetupArgs) -> Result<(), Failure> {
    let flags = [
        (Runtime::Python, &args.python),
        (Runtime::Node, &args.node),
        (Runtime::Bun, &args.bun),
        (Runtime::Deno, &args.deno),
        (Runtime::Bash, &args.bash),
    ];
    match flags.into_iter().find(|(_, packages)| packages.is_some()) {
        Some((runtime, _)) => Err(not_yet(&format!("setup --{runtime}"))),
        None => Ok(()),
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

/// A spinner with the build's last line on a terminal, every line elsewhere.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new() -> Self {
        if !stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg}")
            .expect("the template has known keys only");
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.set_message("looking at what is there");
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }

    fn line(&self, line: &BuildLine, console: &Console) {
        let runtime = report::runtime(line.runtime());
        match &self.0 {
            Some(bar) => {
                bar.set_prefix(runtime);
                bar.set_message(printable(line.text.lines().last().unwrap_or_default()));
            }
            None => console.say(&format!("{runtime}: {}", line.text)),
        }
    }

    fn image(&self, image: &ImageReady, console: &Console) {
        let seconds = Duration::from_millis(image.elapsed_ms).as_secs_f64();
        let text = match image.built {
            true => format!("{} built in {seconds:.1} s", image.tag),
            false => format!("{} is up to date", image.tag),
        };
        match &self.0 {
            Some(bar) => bar.suspend(|| console.say(&text)),
            None => console.say(&text),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let text = |built, unchanged| summary(SetupDone { built, unchanged });
        assert_eq!(text(0, 5), "nothing to do: 5 images up to date\n");
        assert_eq!(text(1, 4), "1 image built, 4 up to date\n");
        assert_eq!(text(5, 0), "5 images built\n");
    }
}
