//! `isol8 key ls`.

use std::{path::Path, time::Duration};

use isol8_core::{config::Policy, failure::Failure};
use isol8_gateway::{Store, Stored};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    answer_json,
    table::{print, span, table},
};
use crate::{console::Console, exit::Exit};

pub(super) fn ls(path: &Path, json: bool, console: &Console) -> Result<Exit, Failure> {
    let listed = match Store::find(path)? {
        Some(store) => store.list()?,
        None => Vec::new(),
    };
    let mut keys = Vec::new();
    for key in listed {
        match key {
            Ok(key) => keys.push(key),
            Err(failure) => console.failure(&failure),
        }
    }
    let now = Timestamp::now();
    if json {
        let keys: Vec<Value> = keys.iter().map(|key| to_json(key, now)).collect();
        return answer_json(&json!({ "keys": keys }));
    }
    if keys.is_empty() {
        console.say("no keys; `isol8 key add <name>` makes one");
        return Ok(Exit::Done);
    }
    let rows = keys.iter().map(|key| row(key, now)).collect();
    let header = ["key", "admin", "made", "expires", "last used", ""];
    print(&[table(&header, rows)])
}

fn row(key: &Stored, now: Timestamp) -> Vec<String> {
    let ago = |at: Timestamp| format!("{} ago", between(at, now));
    let expires = match key.expires {
        None => "never".to_owned(),
        Some(at) if at <= now => "expired".to_owned(),
        Some(at) => format!("in {}", between(now, at)),
    };
    let admin = if key.is_admin { "yes" } else { "no" };
    let mut remarks = ceiling(&key.policy);
    if let Some(until) = key.old_text_until(now) {
        remarks.push(format!("old text works {} more", between(now, until)));
    }
    vec![
        key.name.clone(),
        admin.to_owned(),
        ago(key.created),
        expires,
        key.last_used.map_or("never".to_owned(), ago),
        remarks.join(", "),
    ]
}

fn between(from: Timestamp, to: Timestamp) -> String {
    span(Duration::try_from(to.duration_since(from)).unwrap_or_default())
}

/// In the words of the flags.
fn ceiling(policy: &Policy) -> Vec<String> {
    let mut said = Vec::new();
    if policy.allow_host_network == Some(false) {
        said.push("no host network".to_owned());
    }
    if let Some(memory) = policy.max_memory {
        said.push(format!("memory {memory}"));
    }
    if let Some(cpu) = policy.max_cpu {
        said.push(format!("cpu {cpu}"));
    }
    if let Some(timeout) = policy.max_timeout {
        said.push(format!("timeout {} ms", timeout.as_millis()));
    }
    match policy.images.as_deref() {
        None => {}
        Some([]) => said.push("no images".to_owned()),
        Some(images) => said.push(format!("images {}", images.join(" "))),
    }
    said
}

fn to_json(key: &Stored, now: Timestamp) -> Value {
    let time = |at: Timestamp| format!("{at:.3}");
    json!({
        "name": key.name,
        "admin": key.is_admin,
        "created": time(key.created),
        "expires": key.expires.map(time),
        "expired": key.expires.is_some_and(|at| at <= now),
        "lastUsed": key.last_used.map(time),
        "oldTextUntil": key.old_text_until(now).map(time),
        "policy": key.policy.given(),
    })
}
