//! Sessions that nobody uses any more go by themselves.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Sessions, entry::Order};

/// How often is looked, at most.
const PERIOD: Duration = Duration::from_secs(30);

impl Sessions {
    /// Removes what nobody has used for `max_age` (`None`: nothing), and writes
    /// down what could wait, until `stop`.
    pub(crate) async fn keep_tidy(&self, max_age: Option<Duration>, stop: &CancellationToken) {
        let period = max_age.map_or(PERIOD, |age| (age / 4).clamp(Duration::from_secs(1), PERIOD));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(period) => {}
            }
            if let Some(age) = max_age {
                self.expire(age).await;
            }
            self.0.store.settle().await;
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
                    if let Err(error) = self.remove_kept(&record.sandbox).await {
                        tracing::warn!(%error, "a kept sandbox does not go");
                    }
                }
            }
        }
    }
}
