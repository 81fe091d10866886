//! Who waits until the pool has let go of layers.

use std::collections::BTreeSet;

use isol8_core::{layer::LayerId, pool::Pool};
use tokio::sync::oneshot;

/// Told in the order in which they came true.
#[derive(Debug, Default)]
pub(super) struct Forgets(Vec<(BTreeSet<LayerId>, oneshot::Sender<()>)>);

impl Forgets {
    pub(super) fn add(&mut self, layers: BTreeSet<LayerId>, done: oneshot::Sender<()>) {
        self.0.push((layers, done));
    }

    /// Tells those who wait for nothing any more.
    pub(super) fn tell(&mut self, pool: &Pool) {
        let done = |(layers, _): &mut (BTreeSet<LayerId>, _)| !pool.holds(layers);
        for (_, done) in self.0.extract_if(.., done) {
            let _left = done.send(());
        }
    }
}
