//! Sessions that nobody uses any more go by themselves.

use std::time::{Duration, SystemTime};

use isol8_core::failure::FailureKind;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Sessions, entry::Order, record::Record};

/// How often is looked, at most.
const PERIOD: Duration = Duration::from_secs(30);

impl Sessions {
    /// Removes what nobody has used for `max_age` (`None`: nothing), and writes
    /// down what could wait, until `stop`.
    pub(crate) async fn keep_tidy(&self, max_age: Option<Duration>, stop: &CancellationToken) {
        let period = max_age.map_or(PERIOD, |age| {
            (age / 4).clamp(Duration::from_secs(1), PERIOD)
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(period) => {}
            }
            self.note_uses();
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
