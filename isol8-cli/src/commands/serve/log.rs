//! The gateway's log, on stderr: for a person, or for the journal, which knows the
//! time itself and is told the priority.

use std::{
    env, fs,
    io::{self, IsTerminal as _, Write},
    os::unix::fs::MetadataExt as _,
};

use isol8_core::journal::{self, Priority};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Starts it; `ISOL8_LOG` filters it.
pub(super) fn start(debug: bool) {
    let wanted = env::var("ISOL8_LOG").ok().filter(|text| !text.is_empty());
    let usual = match debug {
        true => "info,isol8_gateway=debug",
        false => "warn,isol8_gateway=info",
    };
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(usual));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(usual));
    // A log that cannot be written would end in a panic: the terminal may be gone.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false);
    match is_journal() {
        true => lines
            .with_writer(Journal)
            .with_ansi(false)
            .with_level(false)
            .without_time()
            .init(),
        false => lines
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .init(),
    }
}

fn is_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").ok();
    // Follows the link to whatever stderr is.
    let stderr = fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| journal::is_stream(stream.as_deref(), stderr.dev(), stderr.ino()))
}

#[derive(Debug)]
struct Journal;

#[derive(Debug)]
struct Line(Priority);

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Priority::Info)
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Line {
        Line(match *meta.level() {
            tracing::Level::ERROR => Priority::Error,
            tracing::Level::WARN => Priority::Warning,
            tracing::Level::INFO => Priority::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Priority::Debug,
        })
    }
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&journal::lines(self.0, text))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
