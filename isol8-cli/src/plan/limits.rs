//! Bounds of the run: what is typed, and the defaults that the configuration's
//! file puts in the place of the daemon's.

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

/// What was typed. Zero in a field leaves it to the defaults.
pub(super) fn typed(args: &RunArgs) -> Result<Limits, Failure> {
    let size = |flag, text: &Option<String>| parse::<ByteSize>(flag, "512m", text.as_deref());
    let memory = size("--memory", &args.memory)?;
    if memory.is_some_and(|memory| memory < MIN_MEMORY) {
        let why = format!("the least is {MIN_MEMORY}");
        return Err(refuse("--memory", &why, "512m"));
    }
    let bytes = |size: Option<ByteSize>| size.map(ByteSize::as_bytes).unwrap_or_default();
    let cpu = parse::<CpuMillis>("--cpu", "0.5", args.cpu.as_deref())?;
    let pids = pids(args.pids_limit.as_deref())?;
    Ok(Limits {
        timeout_ms: timeout(args.timeout.as_deref())?.unwrap_or_default(),
        memory_bytes: bytes(memory),
        cpu_millis: cpu.map_or(0, CpuMillis::as_millis),
        pids: pids.map_or(0, Pids::get),
        sandbox_bytes: bytes(size("--sandbox-size", &args.sandbox_size)?),
        tmp_bytes: bytes(size("--tmp-size", &args.tmp_size)?),
        max_output_bytes: bytes(size("--max-output", &args.max_output)?),
    })
}

/// What the configuration's file says. Without one the daemon's defaults stand.
pub(super) fn configured(world: &World<'_>) -> Option<Limits> {
    let limits = &world.config.defaults.limits;
    world.configured.then(|| Limits {
        timeout_ms: u64::try_from(limits.timeout.as_millis()).unwrap_or(u64::MAX),
        memory_bytes: limits.memory.as_bytes(),
        cpu_millis: limits.cpu.as_millis(),
        pids: limits.pids.get(),
        sandbox_bytes: limits.sandbox_size.as_bytes(),
        tmp_bytes: limits.tmp_size.as_bytes(),
        max_output_bytes: limits.max_output,
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
