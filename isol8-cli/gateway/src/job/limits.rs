//! Bounds of a run, as they are asked for.

use std::{fmt::Display, str::FromStr};

use isol8_core::{
    quantity::{ByteSize, CpuMillis, Pids},
    request::{MAX_TIMEOUT, MIN_MEMORY},
};
use isol8_proto::v1::Limits;

use crate::{api::Options, refusal::Refusal};

const MAX_TIMEOUT_MS: u64 = MAX_TIMEOUT.as_secs() * 1000;

/// The result of `/execute` is held in memory as a whole.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;

/// Zero in a field leaves it to the daemon.
///
/// # Errors
/// 400 names the field.
pub(super) fn limits(options: &Options, timeout_ms: Option<u64>) -> Result<Limits, Refusal> {
    // Also the one that does not count must be one.
    let of_options = timeout("options.timeoutMs", options.timeout_ms)?;
    let timeout_ms = match timeout("request.timeoutMs", timeout_ms)? {
        0 => of_options,
        ms => ms,
    };
    let memory_bytes = size("options.memoryLimit", options.memory_limit.as_deref())?;
    if options.memory_limit.is_some() && memory_bytes < MIN_MEMORY.as_bytes() {
        let why = format!("the least is {MIN_MEMORY}");
        return Err(wrong("options.memoryLimit", &why));
    }
    let cpu = options.cpu_limit.as_ref().map(ToString::to_string);
    let cpu: Option<CpuMillis> = parse("options.cpuLimit", cpu.as_deref())?;
    let pids = options.pids_limit.map(|count| {
        let why = format!("{count} is not between 1 and {}", Pids::MAX);
        Pids::new(count).ok_or_else(|| wrong("options.pidsLimit", &why))
    });
    let max_output_bytes = match options.max_output_size {
        Some(bytes @ 1..=MAX_OUTPUT_BYTES) => bytes,
        Some(bytes) => {
            let why = format!("{bytes} is not between 1 and {MAX_OUTPUT_BYTES}");
            return Err(wrong("options.maxOutputSize", &why));
        }
        None => 0,
    };
    Ok(Limits {
        timeout_ms,
        memory_bytes,
        cpu_millis: cpu.map_or(0, CpuMillis::as_millis),
        pids: pids.transpose()?.map_or(0, Pids::get),
        sandbox_bytes: size("options.sandboxSize", options.sandbox_size.as_deref())?,
        tmp_bytes: size("options.tmpSize", options.tmp_size.as_deref())?,
        max_output_bytes,
    })
}

fn timeout(field: &str, asked: Option<u64>) -> Result<u64, Refusal> {
    match asked {
        None => Ok(0),
        Some(ms @ 1..=MAX_TIMEOUT_MS) => Ok(ms),
        Some(ms) => {
            let why = format!("{ms} is not between 1 and {MAX_TIMEOUT_MS}");
            Err(wrong(field, &why))
        }
    }
}

fn size(field: &str, text: Option<&str>) -> Result<u64, Refusal> {
    let size: Option<ByteSize> = parse(field, text)?;
    match size.map(ByteSize::as_bytes) {
        Some(0) => Err(wrong(field, &"nothing fits into 0 bytes")),
        size => Ok(size.unwrap_or_default()),
    }
}

fn parse<T>(field: &str, text: Option<&str>) -> Result<Option<T>, Refusal>
where
    T: FromStr,
    T::Err: Display,
{
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error: T::Err| wrong(field, &error))
}

fn wrong(field: &str, why: &dyn Display) -> Refusal {
    Refusal::invalid(format!("`{field}`: {why}"))
}
