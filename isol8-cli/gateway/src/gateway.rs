//! A gateway: what it is made of, and its life from the first connection to the
//! last.

use std::{net::IpAddr, sync::Arc};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept, body::Room, bounds::Bounds, daemon::Daemon, keys::Keys, metrics::Metrics,
    policy::Policy, routes, sessions::Sessions, shares::Shares,
};

/// What one gateway is like.
#[derive(Debug)]
pub struct Settings {
    /// What `/health` tells.
    pub version: String,
    /// Who may come in. Whoever has a clone can change it while the gateway serves.
    pub keys: Keys,
    /// What nobody may ask for.
    pub policy: Policy,
    /// Names that this gateway is called by, besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// How much, and how long.
    pub bounds: Bounds,
}

/// An HTTP server in front of a daemon.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    daemon: Daemon,
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) version: String,
    pub(crate) keys: Keys,
    pub(crate) policy: Policy,
    pub(crate) hosts: Vec<String>,
    /// Where it listens.
    pub(crate) address: Option<IpAddr>,
    pub(crate) bounds: Bounds,
    /// For bodies.
    pub(crate) room: Room,
    /// For what is answered. Taken after the other one, and never the other way
    /// round: nobody waits in a circle.
    pub(crate) answers: Room,
    /// WebSockets, which are no connections of HTTP any more.
    pub(crate) sockets: Arc<Shares>,
    /// Requests that are being answered.
    pub(crate) requests: Arc<Shares>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) daemon: Daemon,
    pub(crate) metrics: Metrics,
    /// Runs, and what follows them.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Gateway {
    /// A gateway that does not listen yet.
    #[must_use]
    pub fn new(settings: Settings, daemon: Daemon) -> Self {
        Self { settings, daemon }
    }

    /// Serves until `stop` fires. Every run is over then, every stream has had its
    /// last event, and the listener is closed, at the latest after
    /// [`Bounds::grace`].
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let Self { settings, daemon } = self;
        let address = listener.local_addr().ok().map(|address| address.ip());
        let shared = Arc::new(Shared {
            version: settings.version,
            keys: settings.keys,
            policy: settings.policy,
            hosts: settings.hosts,
            address,
            room: Room::new(settings.bounds.bodies_bytes),
            answers: Room::new(settings.bounds.answers_bytes),
            sockets: Shares::new(settings.bounds.sockets),
            requests: Shares::new(settings.bounds.connections),
            sessions: Arc::default(),
            bounds: settings.bounds,
            daemon,
            metrics: Metrics::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        shared.keys.allow_runs(shared.bounds.runs_per_key);
        let watch = shared.keys.clone().watch_expiry(stop);
        shared.tasks.spawn(watch);
        let router = routes::router(&shared);
        accept::serve(listener, router, Arc::clone(&shared)).await;
        shared.tasks.close();
        if timeout(shared.bounds.grace, shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some runs did not end in time");
        }
    }
}
