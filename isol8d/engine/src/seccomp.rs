//! The system calls that a program may make: one allowlist for both engines.
//!
//! Docker takes [`PROFILE`] as it is. For a jail [`bpf`] compiles the same text
//! to the classic BPF program that the kernel and `bwrap --seccomp` take, so
//! that the two engines cannot drift apart. Reading order: what the profile
//! says ([`profile`]), which number a name has here ([`numbers`]), how both
//! become a program ([`compile`]).

use isol8_core::failure::{Failure, FailureKind};

mod compile;
mod numbers;
mod profile;

#[cfg(test)]
mod interpreter;
#[cfg(test)]
mod tests;

/// The allowlist in Docker's own format.
pub const PROFILE: &str = include_str!("../../../images/seccomp.json");

/// Compiles [`PROFILE`] for the machine that this runs on: an array of
/// `struct sock_filter` in native byte order, a few kilobytes.
///
/// # Errors
/// `Internal` where the profile and this code do not fit each other, or where
/// the machine is neither x86-64 nor 64-bit ARM. There is no way to go on
/// without a filter, and no caller may.
pub fn bpf() -> Result<Vec<u8>, Failure> {
    let program = profile::Profile::parse(PROFILE)
        .and_then(|profile| compile::compile(&profile))
        .map_err(|error| {
            Failure::new(
                FailureKind::Internal,
                "cannot compile the seccomp profile for this machine",
            )
            .because(&error)
        })?;
    Ok(compile::bytes(&program))
}
