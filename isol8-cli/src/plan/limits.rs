//! Bounds of the run: flag, else the configuration's file, else the daemon's.

use std::{fmt::Display, str::FromStr};

use isol8_core::{
    failure::Failure,
    quantity::{ByteSize, CpuMillis, Pids},
    request::{MAX_TIMEOUT, MIN_MEMORY},
};
use isol8_proto::v1::Limits;

use super::{World, wrong};
use crate::args::RunArgs;

const MAX_TIMEOUT_MS: u64 = MAX_TIMEOUT.as_secs() * 1000;

/// Zero in a field leaves it to the daemon.
pub(super) fn limits(args: &RunArgs, world: &World<'_>) -> Result<Limits, Failure> {
    let configured = world
        .configured
        .then_some(&world.config.defaults.limits)
        .copied();
    let or = |flag: Option<u64>, value: Option<u64>| flag.or(value).unwrap_or_default();
    let size = |flag, text: &Option<String>| parse::<ByteSize>(flag, "512m", text.as_deref());
    let memory = size("--memory", &args.memory)?;
    if memory.is_some_and(|memory| memory < MIN_MEMORY) {
        let why = format!("the least is {MIN_MEMORY}");
        return Err(refuse("--memory", &why, "512m"));
    }
    let memory = memory.map(ByteSize::as_bytes);
    let sandbox = size("--sandbox-size", &args.sandbox_size)?.map(ByteSize::as_bytes);
    let tmp = size("--tmp-size", &args.tmp_size)?.map(ByteSize::as_bytes);
    let output = size("--max-output", &args.max_output)?.map(ByteSize::as_bytes);
    let cpu = parse::<CpuMillis>("--cpu", "0.5", args.cpu.as_deref())?;
    let pids = pids(args.pids_limit.as_deref())?;
    let timeout = timeout(args.timeout.as_deref())?;
    let configured_timeout =
        configured.map(|limits| u64::try_from(limits.timeout.as_millis()).unwrap_or(u64::MAX));
    Ok(Limits {
        timeout_ms: or(timeout, configured_timeout),
        memory_bytes: or(memory, configured.map(|limits| limits.memory.as_bytes())),
        cpu_millis: cpu
            .or(configured.map(|limits| limits.cpu))
            .map_or(0, CpuMillis::as_millis),
        pids: pids
            .or(configured.map(|limits| limits.pids))
            .map_or(0, Pids::get),
        sandbox_bytes: or(
            sandbox,
            configured.map(|limits| limits.sandbox_size.as_bytes()),
        ),
        tmp_bytes: or(tmp, configured.map(|limits| limits.tmp_size.as_bytes())),
        max_output_bytes: or(output, configured.map(|limits| limits.max_output)),
    })
}

fn parse<T>(flag: &str, example: &str, text: Option<&str>) -> Result<Option<T>, Failure>
where
    T: FromStr,
    T::Err: Display,
{
    let parsed = text.map(|text| {
        text.parse()
            .map_err(|error: T::Err| refuse(flag, &error, example))
    });
    parsed.transpose()
}

fn refuse(flag: &str, why: &dyn Display, example: &str) -> Failure {
    wrong(format!("wrong value for `{flag}`"))
        .cause(why.to_string())
        .hint(format!("write it like `{flag} {example}`"))
}

fn pids(text: Option<&str>) -> Result<Option<Pids>, Failure> {
    let parse = |text: &str| {
        let pids = text.parse().ok().and_then(Pids::new);
        pids.ok_or_else(|| {
            let why = format!("`{text}` is not a count between 1 and {}", Pids::MAX);
            refuse("--pids-limit", &why, "128")
        })
    };
    text.map(parse).transpose()
}

fn timeout(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let parse = |text: &str| match text.parse() {
        Ok(milliseconds @ 1..=MAX_TIMEOUT_MS) => Ok(milliseconds),
        _ => {
            let why =
                format!("`{text}` is not a number of milliseconds between 1 and {MAX_TIMEOUT_MS}");
            Err(refuse("--timeout", &why, "10000"))
        }
    };
    text.map(parse).transpose()
}
