//! The daemon's own log.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts it: lines go to stderr, `ISOL8_LOG` filters them. Bollard logs whole
/// requests in detail, which is never wanted.
pub fn start(debug: bool) {
    let wanted = std::env::var("ISOL8_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let usual = if debug {
        "info,isol8d=debug,isol8_engine=debug"
    } else {
        "info"
    };
    let filter = format!("{},bollard=warn", wanted.as_deref().unwrap_or(usual));
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info,bollard=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
