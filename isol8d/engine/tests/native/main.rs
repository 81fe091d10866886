//! The native engine on the real thing: jails, limits, figures, and what is left
//! when something goes wrong. Needs bubblewrap and either root or a delegated
//! cgroup, and fails without.
//!
//! `ISOL8_INIT` names the init binary; otherwise the one in the target folder is
//! taken: `cargo build -p isol8-init` makes it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests are tests"
)]

mod bench;
mod program;
#[path = "../shared/mod.rs"]
mod shared;

mod host;
mod lasting;
mod life;
mod limits;
mod network;
mod posture;
mod unprivileged;
