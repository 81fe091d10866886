//! The rule parser and the judge.

use std::time::Duration;

use isol8_core::config::values::IpRange;
use isol8_core::egress::{
    address::class,
    host::Host,
    pattern::{AllowPattern, DenyPattern, dot_warning},
    record::{Action, Record},
    rules::{Filter, FilterError, Rules},
};
use regex::RegexBuilder;

use crate::numeric::numeric;

/// A filter and what is asked of it, as a text of one entry per line: `a` and
/// `d` patterns, `r` registries, `p` private ranges, `h` hosts.
#[derive(Default)]
struct Case {
    filter: Filter,
    hosts: Vec<String>,
}

impl Case {
    /// `\x01` stands for the line break, which patterns may hold.
    fn read(text: &str) -> Self {
        let mut case = Self::default();
        case.filter.ports = vec![80, 443];
        for line in text.lines() {
            let line = line.replace('\x01', "\n");
            let mut rest = line.chars();
            let kind = rest.next();
            let entry = rest.as_str().to_owned();
            match kind {
                Some('a') => case.filter.allow.push(entry),
                Some('d') => case.filter.deny.push(entry),
                Some('r') => case.filter.registries.push(entry),
                Some('p') => case
                    .filter
                    .allow_private
                    .extend(entry.parse::<IpRange>().ok()),
                Some('h') => case.hosts.push(entry),
                _ => {}
            }
        }
        case
    }
}

/// A filter is what its entries are one by one, and opens nothing that one of
/// them closes.
///
/// # Panics
/// When that does not hold.
pub fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let case = Case::read(text);
    let filter = &case.filter;
    let allow = filter.allow.iter().map(|text| AllowPattern::parse(text));
    let allow: Result<Vec<_>, _> = allow.collect();
    let deny = filter.deny.iter().map(|text| DenyPattern::parse(text));
    let deny: Result<Vec<_>, _> = deny.collect();
    for pattern in filter.allow.iter().chain(&filter.deny) {
        assert!(
            dot_warning(pattern).is_none_or(|line| !line.contains('\n') || pattern.contains('\n'))
        );
    }
    let rules = match Rules::compile(filter) {
        Ok(rules) => rules,
        Err(error) => {
            let wrong = matches!(error, FilterError::Pattern { .. });
            assert_eq!(wrong, allow.is_err() || deny.is_err(), "{error}");
            return;
        }
    };
    let (allow, deny) = (allow.expect("compiled"), deny.expect("compiled"));
    let open = allow.is_empty() && deny.is_empty() && filter.registries.is_empty();
    assert_eq!(rules.is_open(), open);
    for text in &case.hosts {
        log(text);
        let Ok(host) = Host::parse(text) else {
            continue;
        };
        assert!(rules.judge_host(&host, 22).is_err());
        let verdict = rules.judge_host(&host, 443);
        judged(filter, &rules, &allow, &deny, &host, verdict.is_ok());
    }
}

fn judged(
    filter: &Filter,
    rules: &Rules,
    allow: &[AllowPattern],
    deny: &[DenyPattern],
    host: &Host,
    passed: bool,
) {
    let canonical = host.to_string();
    for pattern in allow {
        if let Some(whole) = whole_match(pattern.as_str(), &canonical) {
            assert_eq!(pattern.matches(host), whole, "{pattern:?} on {canonical}");
        }
    }
    for pattern in deny {
        let usual = RegexBuilder::new(pattern.as_str())
            .case_insensitive(true)
            .build();
        if let Ok(usual) = usual {
            let expected = usual.is_match(&canonical);
            assert_eq!(
                pattern.matches(host),
                expected,
                "{pattern:?} on {canonical}"
            );
        }
    }
    let denied = deny.iter().any(|pattern| pattern.matches(host));
    let registry = |text: &String| Host::parse(text).as_ref() == Ok(host);
    let allowed = allow.iter().any(|pattern| pattern.matches(host))
        || filter.registries.iter().any(registry)
        || (allow.is_empty() && filter.registries.is_empty());
    if passed {
        assert!(allowed && !denied, "{canonical}");
        if let Some(address) = numeric(&canonical) {
            assert!(rules.judge_address(address).is_ok(), "{canonical}");
            let opened = filter
                .allow_private
                .iter()
                .any(|range| range.contains(address));
            assert!(class(address).is_none() || opened, "{canonical}");
        }
    }
    if let (false, true, None) = (passed, allowed && !denied, host.address()) {
        let name = canonical.as_str();
        let is_local = name == "localhost" || name.ends_with(".localhost");
        assert!(
            is_local || name.contains("metadata") || name.contains("instance-data"),
            "{name}"
        );
    }
}

/// The same read by another parser, where the text can be wrapped: without
/// groups of flags it has no comments and no end of its own.
fn whole_match(pattern: &str, text: &str) -> Option<bool> {
    if pattern.contains("(?") {
        return None;
    }
    let wrapped = format!(r"\A(?:{pattern})\z");
    let regex = RegexBuilder::new(&wrapped).case_insensitive(true).build();
    Some(regex.ok()?.is_match(text))
}

/// Whatever was asked for fits on one line.
fn log(text: &str) {
    let record = Record {
        timestamp_ms: 0,
        method: text.chars().rev().collect(),
        host: text.to_owned(),
        port: 80,
        path: Some(text.to_owned()),
        action: Action::Block,
        reason: text.to_owned(),
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
    };
    let line = record.to_json();
    assert!(
        line.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
        "{line}"
    );
    let read: Record = serde_json::from_str(&line).expect("valid JSON");
    assert_eq!(read, record);
}
