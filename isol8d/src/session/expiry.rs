//! Sessions that nobody uses any more go by themselves.

use std::time::{Duration, SystemTime};

use isol8_core::failure::FailureKind;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Sessions, entry::Order, record::Record};

/// How often is looked, at most.
const PERIOD: Duration = Duration::from_secs(30);

/// Less than this the clocks may differ for no reason.
const SLIP: Duration = Duration::from_secs(5);

/// The clock on the wall, and one that nobody sets and that stands while the host
/// sleeps. Nobody could use a session in time that never was.
#[derive(Debug)]
struct Clocks {
    wall: SystemTime,
    steady: Instant,
}

impl Clocks {
    fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// How much further than the steady one the wall's has gone since the last look.
    fn jump(&mut self) -> Duration {
        let before = std::mem::replace(self, Self::now());
        let wall = self.wall.duration_since(before.wall).unwrap_or_default();
        wall.saturating_sub(self.steady - before.steady)
    }
}

impl Sessions {
    /// Removes what nobody has used for `max_age` (`None`: nothing), and writes
    /// down what could wait, until `stop`.
    pub(crate) async fn keep_tidy(&self, max_age: Option<Duration>, stop: &CancellationToken) {
        let period = max_age.map_or(PERIOD, |age| {
            (age / 4).clamp(Duration::from_secs(1), PERIOD)
        });
        let mut clocks = Clocks::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(period) => {}
            }
            self.note_uses();
            let jump = clocks.jump();
            if jump >= SLIP {
                tracing::info!(jump_s = jump.as_secs(), "the clock was put forward");
                self.0.store.age_less(jump);
            }
            if let Some(age) = max_age {
                self.expire(age).await;
            }
            self.0.store.settle().await;
        }
    }

    /// What is in use now is not old when the daemon dies over it.
    fn note_uses(&self) {
        let used = |record: &mut Record| record.used = SystemTime::now();
        let busy: Vec<_> = {
            let table = self.table();
            let busy = table.values().filter(|entry| entry.is_busy());
            busy.filter_map(|entry| entry.view.borrow().sandbox.clone())
                .collect()
        };
        let in_use = self.0.in_use().clone();
        for id in busy.iter().chain(&in_use) {
            self.0.store.change(id, used);
        }
    }

    async fn expire(&self, age: Duration) {
        for record in self.0.store.all() {
            if record.idle() < age {
                continue;
            }
            match record.name {
                Some(name) => {
                    let entry = self.table().get(&(record.owner, name.clone())).cloned();
                    if let Some(entry) = entry.filter(|entry| !entry.is_busy()) {
                        tracing::info!(session = %name, "nobody has used a session for long: it goes");
                        entry.ask(Order::Expire { after: age });
                    }
                }
                None => {
                    tracing::info!(sandbox_id = %record.sandbox, "a kept sandbox goes");
                    match self.remove_kept(&record.sandbox).await {
                        Err(error) if error.kind != FailureKind::SessionBusy => {
                            tracing::warn!(%error, "a kept sandbox does not go");
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_lived_through_is_a_jump() {
        let mut clocks = Clocks::now();
        assert!(clocks.jump() < SLIP);
        let hour = Duration::from_secs(3600);
        clocks.wall -= hour;
        assert!(clocks.jump() > hour - SLIP, "it was set, or the host slept");
        clocks.wall -= hour;
        tokio::time::advance(hour).await;
        assert!(clocks.jump() < SLIP, "an hour is an hour");
        clocks.wall += hour;
        assert_eq!(clocks.jump(), Duration::ZERO, "it was set back");
    }
}
