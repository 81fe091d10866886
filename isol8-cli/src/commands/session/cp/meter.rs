//! How far a copy is, for a person who waits for it.

use std::{
    io::{IsTerminal as _, stderr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::commands::table::amount;

/// What is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);

/// What the thread counts.
#[derive(Debug, Default)]
pub(super) struct Counted {
    bytes: AtomicU64,
    files: AtomicU64,
    /// Of the one file that is copied; 0 where it is not known.
    total: AtomicU64,
}

impl Counted {
    pub(super) fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }
}

/// A line on stderr, if that is a terminal. It is gone with the meter.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) counted: Arc<Counted>,
    what: String,
    started: Instant,
    interval: Option<Interval>,
    bar: Option<ProgressBar>,
}

impl Meter {
    pub(super) fn new(what: String) -> Self {
        let started = Instant::now();
        let interval = stderr().is_terminal().then(|| {
            let mut interval = interval_at(started + PATIENCE, TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self {
            counted: Arc::default(),
            what,
            started,
            interval,
            bar: None,
        }
    }

    /// Waits until there is something to show, and shows it. Without a terminal
    /// it never ends. Nothing is lost when it is dropped.
    pub(super) async fn tick(&mut self) {
        let Some(interval) = &mut self.interval else {
            return std::future::pending().await;
        };
        interval.tick().await;
        let text = self.text();
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}")
                .expect("the template has known keys only");
            ProgressBar::new_spinner().with_style(style)
        });
        bar.set_message(text);
        bar.tick();
    }

    fn text(&self) -> String {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Counted {
            bytes,
            files,
            total,
        } = &*self.counted;
        let (bytes, files, total) = (load(bytes), load(files), load(total));
        let elapsed_ms = self.started.elapsed().as_millis().max(1);
        let a_second = u128::from(bytes) * 1000 / elapsed_ms;
        let a_second = amount(u64::try_from(a_second).unwrap_or(u64::MAX));
        let (what, copied) = (&self.what, amount(bytes));
        match (total, files) {
            (0, files) if files > 1 => {
                format!("{what}: {copied} in {files} files, {a_second}/s")
            }
            (0, _) => format!("{what}: {copied}, {a_second}/s"),
            (total, _) => format!("{what}: {copied} of {}, {a_second}/s", amount(total)),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
