//! Names to addresses, once per request.

use std::{
    fmt, io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// Lookups of all sandboxes at a time. Each holds a thread for as long as the
/// system's resolver takes, even when nobody waits for it any more.
const LOOKUPS: usize = 64;

/// The most addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 32;

type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Asks for the addresses of a name.
#[derive(Clone)]
pub struct Resolver {
    lookup: Option<Arc<Lookup>>,
    permits: Arc<Semaphore>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.lookup.is_some() {
            "Resolver(own)"
        } else {
            "Resolver(system)"
        })
    }
}

impl Resolver {
    /// The host's: `/etc/hosts`, DNS, whatever its configuration names.
    #[must_use]
    pub fn system() -> Self {
        Self {
            lookup: None,
            permits: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// One that answers from `lookup`, for tests.
    #[must_use]
    pub fn with<F>(lookup: F) -> Self
    where
        F: Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    {
        Self {
            lookup: Some(Arc::new(lookup)),
            permits: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// The addresses of a canonical name, in the order to try them, without
    /// doubles. Never empty.
    ///
    /// # Errors
    /// A reason in a few words; `limit` includes waiting for a free thread.
    pub(crate) async fn addresses(
        &self,
        name: &str,
        limit: Duration,
    ) -> Result<Vec<IpAddr>, &'static str> {
        match timeout(limit, self.ask(name.to_owned())).await {
            Err(_) => Err("the name did not resolve in time"),
            Ok(Err(_)) => Err("the name does not resolve"),
            Ok(Ok(found)) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in found {
                    if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
                        addresses.push(address);
                    }
                }
                if addresses.is_empty() {
                    Err("the name does not resolve")
                } else {
                    Ok(addresses)
                }
            }
        }
    }

    async fn ask(&self, name: String) -> io::Result<Vec<IpAddr>> {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
        if let Some(lookup) = &self.lookup {
            let _permit = permit;
            return lookup(name).await;
        }
        let lookup = spawn_blocking(move || {
            // The thread outlives a caller that no longer waits, and so must
            // its permit.
            let _permit = permit;
            let found = (name.as_str(), 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        });
        lookup.await.map_err(io::Error::other)?
    }
}
