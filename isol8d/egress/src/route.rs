//! From a checked target to a connection: judge the host, resolve once, judge
//! every address, dial what was judged.

use std::{net::IpAddr, sync::Arc};

use hyper::header::HeaderValue;
use isol8_core::egress::{
    host::Host,
    rules::{Refusal, Rules},
};
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::{
    lane::{Heading, Lane},
    net::{Link, Net, ask_for_tunnel},
    session::Session,
    upstream::Upstream,
};

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum NoRoute {
    #[error("no policy is open")]
    Closed,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Unreachable(String),
}

/// A connection, and how to speak on it.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) link: Link,
    /// The other end is a proxy that wants the absolute form.
    pub(crate) is_proxied: bool,
    pub(crate) authorization: Option<HeaderValue>,
}

/// One request that wants a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) net: &'a Net,
    pub(crate) session: &'a Session,
    pub(crate) lane: &'a Lane,
    pub(crate) host: &'a Host,
    pub(crate) port: u16,
    pub(crate) is_tunnel: bool,
}

impl Ask<'_> {
    /// Finds the way, or says why there is none.
    pub(crate) async fn route(self) -> Result<Route, NoRoute> {
        // Said before the rules are read: rules that change from now on are
        // seen by the connection's task, which looks at the heading.
        self.head_for(Vec::new());
        self.rules()?.judge_host(self.host, self.port)?;
        match self.net.upstream(self.host, self.port) {
            Some(upstream) => self.through(upstream).await,
            None => self.direct().await,
        }
    }

    async fn direct(self) -> Result<Route, NoRoute> {
        let limits = &self.session.limits;
        let found = match self.host {
            Host::Address(address) => Ok(vec![*address]),
            Host::Name(name) => {
                self.net
                    .resolver
                    .addresses(name.as_str(), limits.resolve, &self.session.lookups)
                    .await
            }
        };
        let found = found.map_err(|error| NoRoute::Unreachable(error.to_owned()))?;
        // Only what passes is dialled; where nothing does, the first refusal
        // says why.
        let (mut permitted, mut refused) = (Vec::new(), None);
        let rules = self.rules()?;
        for address in found {
            match rules.judge_address(address) {
                Ok(()) => permitted.push(address),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        if let (true, Some(refusal)) = (permitted.is_empty(), refused) {
            return Err(refusal.into());
        }
        self.head_for(permitted.clone());
        let dial = self.net.dial(&permitted, self.port, limits);
        let stream = in_time(limits.connect, dial).await?;
        if let Ok(peer) = stream.peer_addr() {
            self.head_for(vec![peer.ip()]);
        }
        Ok(Route {
            link: Either::Left(stream),
            is_proxied: false,
            authorization: None,
        })
    }

    /// The reasons for how names are judged here stand in [`crate::upstream`].
    async fn through(self, upstream: &Upstream) -> Result<Route, NoRoute> {
        let limits = &self.session.limits;
        if let Host::Name(name) = self.host {
            let limit = limits.resolve_beside_upstream;
            let found = self
                .net
                .resolver
                .addresses(name.as_str(), limit, &self.session.lookups)
                .await;
            let found = found.unwrap_or_default();
            let rules = self.rules()?;
            found
                .iter()
                .try_for_each(|address| rules.judge_address(*address))?;
            self.head_for(found);
        }
        let authorization = upstream.authorization.clone();
        let dial = async {
            let mut link = self
                .net
                .dial_upstream(upstream, limits, &self.session.lookups)
                .await?;
            if self.is_tunnel {
                ask_for_tunnel(&mut link, self.host, self.port, authorization.as_ref()).await?;
            }
            Ok(link)
        };
        let link = in_time(limits.connect, dial).await?;
        Ok(Route {
            link,
            is_proxied: !self.is_tunnel,
            authorization,
        })
    }

    fn rules(self) -> Result<Arc<Rules>, NoRoute> {
        self.session.rules().ok_or(NoRoute::Closed)
    }

    fn head_for(self, addresses: Vec<IpAddr>) {
        self.lane.head_for(Heading {
            host: self.host.clone(),
            port: self.port,
            addresses,
        });
    }
}

async fn in_time<T>(
    limit: std::time::Duration,
    dial: impl Future<Output = Result<T, String>>,
) -> Result<T, NoRoute> {
    match timeout(limit, dial).await {
        Ok(dialled) => dialled.map_err(NoRoute::Unreachable),
        Err(_) => Err(NoRoute::Unreachable("timed out".to_owned())),
    }
}
