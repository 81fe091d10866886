//! The rules of one run: which hosts, ports and addresses it may reach.

use std::{collections::BTreeSet, net::IpAddr};

use thiserror::Error;

use super::{
    address::{self, AddressClass},
    host::{Host, InvalidHost},
    pattern::{AllowPattern, DenyPattern, PatternError, PatternList},
};
use crate::config::values::IpRange;

/// The most patterns of both lists together.
pub const MOST_PATTERNS: usize = 1000;

/// The most text of all patterns together, in bytes.
pub const MOST_TEXT: usize = 64 << 10;

/// The most registries. A package manager has one to three.
const MOST_REGISTRIES: usize = 200;

/// Names under which clouds offer their metadata services. What they stand for
/// is refused by its address; the names are refused too, because a resolver of
/// the cloud may answer with an address that we do not know.
const METADATA_NAMES: [&str; 6] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
];

/// Where most metadata services live: who opens it opens the names.
const METADATA_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254));

/// What `localhost` and every name below it stand for (RFC 6761), whatever a
/// resolver answers: ours may not know them, and an upstream proxy that does
/// would reach its own machine.
const LOCALHOST: &str = "localhost";
const LOCALHOST_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The rules as text, as they travel between processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Patterns of which one must match the whole host. Empty (and no
    /// registries): every host.
    pub allow: Vec<String>,
    /// Patterns of which none may match anywhere in the host.
    pub deny: Vec<String>,
    /// Hosts that are allowed as well, word for word.
    pub registries: Vec<String>,
    /// Ranges that are not public and may be reached all the same.
    pub allow_private: Vec<IpRange>,
    /// Ports that may be reached. Empty: none.
    pub ports: Vec<u16>,
}

/// Which list an entry stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `--allow`, `network.whitelist`.
    Allow,
    /// `--deny`, `network.blacklist`.
    Deny,
}

impl std::fmt::Display for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Why a filter is refused. There is no filter "without the wrong entry".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// One entry.
    #[error("{list} pattern {}: {error}", index + 1)]
    Pattern {
        /// Its list.
        list: List,
        /// Its index in the list, from 0.
        index: usize,
        /// Why.
        error: PatternError,
    },
    /// Too many entries.
    #[error("there are {0} patterns; at most {MOST_PATTERNS} are taken")]
    TooMany(usize),
    /// Too much text.
    #[error("the patterns have {0} bytes together; at most {MOST_TEXT} are taken")]
    TooMuchText(usize),
    /// Too much memory.
    #[error("the {0} patterns are too large once they are compiled together")]
    TooLarge(List),
    /// A registry that is not a canonical host.
    #[error("the registry `{}` is not a host: {error}", host.escape_debug())]
    Registry {
        /// As it was given.
        host: String,
        /// Why.
        error: InvalidHost,
    },
    /// Too many registries.
    #[error("there are {0} registries; at most {MOST_REGISTRIES} are taken")]
    TooManyRegistries(usize),
}

/// Why a request is refused. Its text is the reason in the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not one of the ports.
    #[error("port {0} is not allowed")]
    Port(u16),
    /// A deny pattern matches.
    #[error("in the deny list")]
    Denied,
    /// No allow pattern matches.
    #[error("not in the allow list")]
    NotAllowed,
    /// A name of a metadata service.
    #[error("a metadata service")]
    MetadataName,
    /// An address that is not public.
    #[error("{address} is a {class} address")]
    Address {
        /// The address.
        address: IpAddr,
        /// What it is.
        class: AddressClass,
    },
}

/// The rules, compiled. Cheap to ask, from any thread.
#[derive(Debug, Clone)]
pub struct Rules {
    allow: PatternList,
    deny: PatternList,
    registries: BTreeSet<Host>,
    allow_private: Vec<IpRange>,
    ports: BTreeSet<u16>,
}

impl Rules {
    /// Compiles a filter.
    ///
    /// # Errors
    /// [`FilterError`] for the first entry that is wrong, or for too many.
    pub fn compile(filter: &Filter) -> Result<Self, FilterError> {
        let patterns = || filter.allow.iter().chain(&filter.deny);
        let count = patterns().count();
        if count > MOST_PATTERNS {
            return Err(FilterError::TooMany(count));
        }
        let text = patterns().map(String::len).sum();
        if text > MOST_TEXT {
            return Err(FilterError::TooMuchText(text));
        }
        let allow = parsed(List::Allow, &filter.allow, AllowPattern::parse)?;
        let deny = parsed(List::Deny, &filter.deny, DenyPattern::parse)?;
        let too_large = |list| move |_| FilterError::TooLarge(list);
        let allow = PatternList::allow(allow).map_err(too_large(List::Allow))?;
        let deny = PatternList::deny(deny).map_err(too_large(List::Deny))?;
        Ok(Self {
            allow,
            deny,
            registries: registries(&filter.registries)?,
            allow_private: filter.allow_private.clone(),
            ports: filter.ports.iter().copied().collect(),
        })
    }

    /// Whether every public host is open: both lists are empty and there are no
    /// registries.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty() && self.registries.is_empty()
    }

    /// Judges what a request asks for, before anything is resolved. A name that
    /// passes is not permitted yet: see [`Rules::judge_address`].
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn judge_host(&self, host: &Host, port: u16) -> Result<(), Refusal> {
        if !self.ports.contains(&port) {
            return Err(Refusal::Port(port));
        }
        let text = host.to_string();
        if self.deny.matches(&text) {
            return Err(Refusal::Denied);
        }
        let listed = !self.allow.is_empty() || !self.registries.is_empty();
        let allowed = || self.registries.contains(host) || self.allow.matches(&text);
        if listed && !allowed() {
            return Err(Refusal::NotAllowed);
        }
        match host {
            Host::Address(address) => self.judge_address(*address),
            Host::Name(name) if METADATA_NAMES.contains(&name.as_str()) => {
                match address::permitted(METADATA_ADDRESS, &self.allow_private) {
                    Ok(()) => Ok(()),
                    Err(_) => Err(Refusal::MetadataName),
                }
            }
            Host::Name(name) if is_localhost(name.as_str()) => {
                self.judge_address(LOCALHOST_ADDRESS)
            }
            Host::Name(_) => Ok(()),
        }
    }

    /// Judges an address that a name stands for, or that was asked for. Only
    /// what passes here may be dialled.
    ///
    /// # Errors
    /// [`Refusal::Address`].
    pub fn judge_address(&self, address: IpAddr) -> Result<(), Refusal> {
        address::permitted(address, &self.allow_private)
            .map_err(|class| Refusal::Address { address, class })
    }
}

fn is_localhost(name: &str) -> bool {
    let before = name.strip_suffix(LOCALHOST);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn parsed<P>(
    list: List,
    texts: &[String],
    parse: impl Fn(&str) -> Result<P, PatternError>,
) -> Result<Vec<P>, FilterError> {
    let each = texts.iter().enumerate().map(|(index, text)| {
        parse(text).map_err(|error| FilterError::Pattern { list, index, error })
    });
    each.collect()
}

fn registries(hosts: &[String]) -> Result<BTreeSet<Host>, FilterError> {
    if hosts.len() > MOST_REGISTRIES {
        return Err(FilterError::TooManyRegistries(hosts.len()));
    }
    let each = hosts.iter().map(|host| {
        Host::parse(host).map_err(|error| FilterError::Registry {
            host: host.clone(),
            error,
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests;
