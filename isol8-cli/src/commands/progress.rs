//! What the daemon says while it builds images.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{BuildLine, ImageReady, SetupDone, SetupEvent, setup_event::Event};
use tonic::{Response, Status, Streaming};

use crate::{
    connect::unwanted,
    console::{Console, printable},
    report,
};

const TICK: Duration = Duration::from_millis(120);

/// Shows a build until it is over. Gives the last image and the counts.
///
/// # Errors
/// Why the build failed. On an engine that makes no images: that `command` needs
/// Docker.
pub(super) async fn follow(
    command: &str,
    answer: Result<Response<Streaming<SetupEvent>>, Status>,
    console: &Console,
) -> Result<(Option<ImageReady>, SetupDone), Failure> {
    let failed = |status: Status| needs_docker(command, unwanted(&status));
    let mut events = answer.map_err(failed)?.into_inner();
    let progress = Progress::new();
    let mut last = None;
    loop {
        let event = events.message().await.map_err(|status| {
            progress.clear();
            failed(status)
        })?;
        match event.and_then(|event| event.event) {
            Some(Event::Line(line)) => progress.line(&line, console),
            Some(Event::Image(image)) => {
                progress.image(&image, console);
                last = Some(image);
            }
            Some(Event::Done(done)) => {
                progress.clear();
                return Ok((last, done));
            }
            None => {
                progress.clear();
                let message = "the daemon ended the build without saying how";
                return Err(Failure::new(FailureKind::Internal, message)
                    .hint("`isol8 daemon logs` may say more"));
            }
        }
    }
}

fn needs_docker(command: &str, failure: Failure) -> Failure {
    let absent = [FailureKind::EngineUnreachable, FailureKind::Unsupported];
    if !absent.contains(&failure.kind) {
        return failure;
    }
    let message = format!("`isol8 {command}` needs the Docker engine");
    let wrapped = Failure::new(failure.kind, message).cause(failure.message);
    let wrapped = failure.causes.into_iter().fold(wrapped, Failure::cause);
    wrapped.hint(
        "start Docker, and see what `isol8 doctor` says of it; the native engine takes \
         packages with `isol8 run --install`",
    )
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
