//! How the egress process is started and reaches the network.

use std::path::PathBuf;

use isol8_core::{
    config::Config,
    failure::{Failure, FailureKind},
};
use isol8_egress::Upstream;

/// This very program, also after its file was replaced by a newer one.
const SELF: &str = "/proc/self/exe";

/// Where the environment names a proxy, first found first.
const UPSTREAM: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// What the process is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSettings {
    /// The `isol8d` to run.
    pub program: PathBuf,
    /// The proxy to go through, as a URL that is valid.
    pub upstream: Option<String>,
    /// Hosts that are reached without it, as in `NO_PROXY`.
    pub no_proxy: String,
    /// Authorities for an `https://` upstream, besides the host's.
    pub authorities: Option<PathBuf>,
    /// Takes listeners on every port of 127.0.0.1. For tests alone.
    pub any_port: bool,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            program: SELF.into(),
            upstream: None,
            no_proxy: String::new(),
            authorities: None,
            any_port: false,
        }
    }
}

impl EgressSettings {
    /// The settings of a daemon: the configuration before the environment.
    ///
    /// # Errors
    /// `InvalidRequest` for a configured upstream that is none. One that only
    /// the environment names is passed over with a warning: it may be meant for
    /// others.
    pub fn of(config: &Config, lookup: &impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let upstream = match &config.network.upstream_proxy {
            Some(url) => Some(configured(url)?),
            None => UPSTREAM
                .iter()
                .find_map(|name| Some((*name, set(name)?)))
                .and_then(|(name, value)| from_environment(name, value.trim())),
        };
        Ok(Self {
            upstream,
            no_proxy: set("NO_PROXY")
                .or_else(|| set("no_proxy"))
                .unwrap_or_default(),
            authorities: config.network.ca_bundle.clone(),
            ..Self::default()
        })
    }
}

fn configured(url: &str) -> Result<String, Failure> {
    match Upstream::parse(url) {
        Ok(_) => Ok(url.to_owned()),
        Err(error) => {
            let message = "`network.upstreamProxy` of the configuration cannot be used";
            Err(Failure::new(FailureKind::InvalidRequest, message).because(&error))
        }
    }
}

fn from_environment(name: &str, value: &str) -> Option<String> {
    let url = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    // It may hold a password: neither it nor a part of it is logged.
    match Upstream::parse(&url) {
        Ok(_) => Some(url),
        Err(error) => {
            tracing::warn!(variable = name, %error, "the proxy of the environment is not used");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(
        config: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<EgressSettings, Failure> {
        let mut full = Config::default();
        full.network.upstream_proxy = config.map(str::to_owned);
        EgressSettings::of(&full, &|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn upstream(config: Option<&str>, variables: &[(&str, &str)]) -> Option<String> {
        settings(config, variables).unwrap().upstream
    }

    #[test]
    fn the_configuration_comes_before_the_environment() {
        let environment = [("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "x.test")];
        let both = settings(Some("http://b:2"), &environment).unwrap();
        assert_eq!(both.upstream.as_deref(), Some("http://b:2"));
        assert_eq!(both.no_proxy, "x.test");
        assert_eq!(upstream(None, &environment).as_deref(), Some("http://a:1"));
        assert_eq!(upstream(None, &[]), None);
    }

    #[test]
    fn the_environment_is_read_as_others_read_it() {
        let first = [("ALL_PROXY", "http://b:2"), ("https_proxy", "a:1")];
        assert_eq!(upstream(None, &first).as_deref(), Some("http://a:1"));
        let empty = [("HTTPS_PROXY", " "), ("all_proxy", "http://b:2")];
        assert_eq!(upstream(None, &empty).as_deref(), Some("http://b:2"));
    }

    #[test]
    fn what_cannot_be_used_stops_the_daemon_only_where_it_was_configured() {
        assert_eq!(upstream(None, &[("ALL_PROXY", "socks5://a:1")]), None);
        let failure = settings(Some("socks5://user:secret@a:1"), &[]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
        assert!(!failure.to_string().contains("secret"), "{failure}");
    }
}
