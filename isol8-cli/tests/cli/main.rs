//! The real binary against a daemon that the test scripts.
//!
//! [`fake`] is that daemon, [`cli`] runs the binary; then what is typed wrong
//! ([`usage`]), runs ([`runs`], [`output`], [`interrupts`], [`stdin`]), how a
//! daemon is started ([`launch`]), and the other commands ([`commands`]).

mod cli;
mod fake;

mod usage;

mod interrupts;
mod output;
mod runs;
mod stdin;

mod commands;
mod launch;
mod network;
