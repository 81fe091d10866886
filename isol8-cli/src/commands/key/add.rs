//! `isol8 key add`.

use std::{path::Path, str::FromStr, time::Duration};

use isol8_core::{
    config::Policy,
    failure::{Failure, FailureKind},
    quantity::{ByteSize, CpuMillis},
    request::{MAX_TIMEOUT, MIN_MEMORY},
};
use isol8_gateway::{NewKey, Store};
use jiff::Timestamp;

use super::{parse_name, show, when};
use crate::{args::AddArgs, console::Console, exit::Exit};

pub(super) fn add(args: &AddArgs, path: &Path, console: &Console) -> Result<Exit, Failure> {
    let now = Timestamp::now();
    let new = NewKey {
        name: parse_name(&args.name)?,
        is_admin: args.admin,
        expires: when::moment("--expires", args.expires.as_deref(), now)?,
        policy: policy(args)?,
    };
    Store::open(path)?.add(&new, now, show)?;
    let name = &new.name;
    console.say(&format!(
        "made `{name}`: keep the text, it is not shown again"
    ));
    Ok(Exit::Done)
}

/// What is asked for of the gateway's policy. A key can only narrow it.
fn policy(args: &AddArgs) -> Result<Policy, Failure> {
    let max_memory: Option<ByteSize> = parse("--max-memory", "512m", args.max_memory.as_deref())?;
    if max_memory.is_some_and(|memory| memory < MIN_MEMORY) {
        let why = format!("no run has less than {MIN_MEMORY}");
        return Err(wrong("--max-memory", &why, "512m"));
    }
    let max_cpu: Option<CpuMillis> = parse("--max-cpu", "0.5", args.max_cpu.as_deref())?;
    let max_timeout = args.max_timeout.as_deref().map(timeout).transpose()?;
    Ok(Policy {
        allow_host_network: args.no_host_network.then_some(false),
        max_memory,
        max_cpu,
        max_timeout,
        images: (args.no_image || !args.image.is_empty()).then(|| args.image.clone()),
    })
}

fn parse<T>(flag: &str, example: &str, text: Option<&str>) -> Result<Option<T>, Failure>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let parse = |text: &str| {
        let parsed = text.parse();
        parsed.map_err(|error: T::Err| wrong(flag, &error.to_string(), example))
    };
    text.map(parse).transpose()
}

fn timeout(text: &str) -> Result<Duration, Failure> {
    let millis = text.parse().ok().map(Duration::from_millis);
    let fits = |time: &Duration| !time.is_zero() && *time <= MAX_TIMEOUT;
    millis.filter(fits).ok_or_else(|| {
        let most = MAX_TIMEOUT.as_millis();
        let shown = text.escape_debug();
        let why = format!("`{shown}` is not a number of milliseconds between 1 and {most}");
        wrong("--max-timeout", &why, "10000")
    })
}

fn wrong(flag: &str, why: &str, example: &str) -> Failure {
    let message = format!("wrong value for `{flag}`");
    Failure::new(FailureKind::InvalidRequest, message)
        .cause(why)
        .hint(format!("write it like `{flag} {example}`"))
}
