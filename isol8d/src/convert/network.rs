//! What a run may reach: its network mode, and which hosts a filtered one lets
//! through.

use isol8_core::{
    config::{NetworkConfig, Policy, values::Pattern},
    egress::rules::{Filter, FilterError, List, Rules},
    failure::{Failure, FailureKind},
    request::Hosts,
    sandbox::Network,
};
use isol8_proto::v1;

use super::invalid;
use crate::status::cut;

/// Of a pattern, in a message. The place of an error has its own piece of it.
const SHOWN_BYTES: usize = 80;

/// The network of a run. What is asked for is never overridden; only a run that
/// asks for packages and for no network gets the filtered one.
pub(super) fn network(number: i32, installs: bool, policy: &Policy) -> Result<Network, Failure> {
    let network = match v1::NetworkMode::try_from(number) {
        Ok(v1::NetworkMode::Unspecified) if installs => Network::Filtered,
        Ok(v1::NetworkMode::Unspecified | v1::NetworkMode::None) => Network::None,
        Ok(v1::NetworkMode::Filtered) => Network::Filtered,
        Ok(v1::NetworkMode::Host) => Network::Host,
        Err(_) => return Err(invalid(format!("`{number}` is not a network mode"))),
    };
    check_policy(network, policy).map(|()| network)
}

/// On the local socket everything is allowed that is not forbidden.
pub(super) fn check_policy(network: Network, policy: &Policy) -> Result<(), Failure> {
    if network == Network::Host && policy.allow_host_network == Some(false) {
        let message = "the policy of this daemon forbids network `host`";
        return Err(Failure::new(FailureKind::Forbidden, message)
            .cause("`policy.allowHostNetwork` is false")
            .hint("run it with `--net none` or `--net filtered`"));
    }
    Ok(())
}

/// The lists that come with a run.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) given: Option<v1::NetworkFilter>,
    /// In place of the daemon's.
    pub(super) default: Option<v1::NetworkFilter>,
}

/// The lists of a run: its own where it has them, else the daemon's.
pub(super) fn hosts(
    lists: Lists,
    log_network: bool,
    network: Network,
    config: &NetworkConfig,
) -> Result<Hosts, Failure> {
    if network != Network::Filtered {
        let useless = [
            ("filter", lists.given.is_some()),
            ("log_network", log_network),
        ];
        return match useless.into_iter().find(|(_, given)| *given) {
            None => Ok(Hosts::default()),
            Some((field, _)) => Err(useless_with(network, field)),
        };
    }
    let (given, default) = (
        lists.given.unwrap_or_default(),
        lists.default.unwrap_or_default(),
    );
    let own = Owners {
        allow: owner(
            &given.allow,
            "filter.allow",
            &default.allow,
            "default_filter.allow",
        ),
        deny: owner(
            &given.deny,
            "filter.deny",
            &default.deny,
            "default_filter.deny",
        ),
    };
    let list = |given: Option<v1::PatternList>, configured: &[Pattern]| match given {
        Some(list) => list.patterns,
        None => texts(configured),
    };
    let allow = list(given.allow.or(default.allow), &config.whitelist);
    let deny = list(given.deny.or(default.deny), &config.blacklist);
    checked(allow, deny, &own)
}

/// What a list is called where it is.
fn owner(
    given: &Option<v1::PatternList>,
    name: &'static str,
    default: &Option<v1::PatternList>,
    default_name: &'static str,
) -> Option<&'static str> {
    let default = default.as_ref().map(|_| default_name);
    given.as_ref().map(|_| name).or(default)
}

/// A field that only a filtered network has a use for.
pub(crate) fn useless_with(network: Network, field: &str) -> Failure {
    invalid(format!("`{field}` does nothing with network `{network}`"))
        .hint("run it with `--net filtered`")
}

/// Whether the daemon's own lists compile: a daemon with lists that mean
/// nothing does not start.
///
/// # Errors
/// `InvalidRequest` names the key and the place.
pub(crate) fn check_configured(config: &NetworkConfig) -> Result<(), Failure> {
    let (allow, deny) = (texts(&config.whitelist), texts(&config.blacklist));
    checked(allow, deny, &Owners::default()).map(drop)
}

fn texts(patterns: &[Pattern]) -> Vec<String> {
    let text = |pattern: &Pattern| pattern.as_str().to_owned();
    patterns.iter().map(text).collect()
}

/// What the request calls its lists; `None` is the daemon's own list.
#[derive(Debug, Default)]
struct Owners {
    allow: Option<&'static str>,
    deny: Option<&'static str>,
}

fn checked(allow: Vec<String>, deny: Vec<String>, own: &Owners) -> Result<Hosts, Failure> {
    let filter = Filter {
        allow,
        deny,
        ..Filter::default()
    };
    match Rules::compile(&filter) {
        Ok(_) => Ok(Hosts {
            allow: filter.allow,
            deny: filter.deny,
        }),
        Err(FilterError::Pattern { list, index, error }) => {
            let (name, patterns) = match list {
                List::Allow => (own.allow.unwrap_or("network.whitelist"), &filter.allow),
                List::Deny => (own.deny.unwrap_or("network.blacklist"), &filter.deny),
            };
            let shown = cut(&patterns[index], SHOWN_BYTES).escape_debug();
            let number = index + 1;
            let message = format!("pattern {number} of `{name}` is wrong: `{shown}`");
            Err(invalid(message)
                .cause(error.to_string())
                .hint(r"a host is written like `^api\.example\.com$`"))
        }
        Err(error) => Err(invalid(error.to_string())),
    }
}
