//! The daemon's own log.

use std::{
    env, fs,
    io::{self, IsTerminal, Write},
    os::unix::fs::MetadataExt,
};

use isol8_core::journal::{self, Priority};
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Starts it: lines go to stderr, `ISOL8_LOG` filters them. Bollard logs whole
/// requests in detail, which is never wanted. The journal knows the time itself
/// and is told the priority.
pub fn start(debug: bool) {
    let wanted = env::var("ISOL8_LOG").ok().filter(|text| !text.is_empty());
    let usual = if debug {
        "info,isol8d=debug,isol8_engine=debug"
    } else {
        "info"
    };
    let filter = format!("{},bollard=warn", wanted.as_deref().unwrap_or(usual));
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info,bollard=warn"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
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

/// Lines to the journal, which come here one at a time.
#[derive(Debug)]
struct Journal;

#[derive(Debug)]
struct Line(Priority);

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Priority::Info)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line(match *meta.level() {
            Level::ERROR => Priority::Error,
            Level::WARN => Priority::Warning,
            Level::INFO => Priority::Info,
            Level::DEBUG | Level::TRACE => Priority::Debug,
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
