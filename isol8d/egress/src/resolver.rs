//! Names to addresses, once per request.

use std::{
    fmt, io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::limits::LOOKUPS_IN_ALL;

/// The most addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 32;

type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Asks for the addresses of a name.
#[derive(Clone)]
pub struct Resolver {
    lookup: Option<Arc<Lookup>>,
    /// Each lookup holds a thread for as long as the system's resolver takes,
    /// even when nobody waits for it any more.
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
            permits: Arc::new(Semaphore::new(LOOKUPS_IN_ALL)),
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
            permits: Arc::new(Semaphore::new(LOOKUPS_IN_ALL)),
        }
    }

    /// The addresses of a canonical name, in the order to try them, without
    /// doubles. Never empty. `share` is what the sandbox has of the lookups.
    ///
    /// # Errors
    /// A reason in a few words; `limit` includes waiting for a free thread.
    pub(crate) async fn addresses(
        &self,
        name: &str,
        limit: Duration,
        share: &Arc<Semaphore>,
    ) -> Result<Vec<IpAddr>, &'static str> {
        match timeout(limit, self.ask(name.to_owned(), share)).await {
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

    async fn ask(&self, name: String, share: &Arc<Semaphore>) -> io::Result<Vec<IpAddr>> {
        let permit = |of: &Arc<Semaphore>| Arc::clone(of).acquire_owned();
        // Its own first: who waits for that one is in nobody's way.
        let own = permit(share).await.map_err(io::Error::other)?;
        let permit = (own, permit(&self.permits).await.map_err(io::Error::other)?);
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
