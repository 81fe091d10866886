//! The real binary against a daemon that the test scripts.
//!
//! [`fake`] is that daemon, [`cli`] runs the binary; then what is typed wrong
//! ([`usage`]), runs ([`runs`], [`output`], [`interrupts`], [`stdin`]) and those on
//! another machine ([`remote`]), how a daemon is started ([`launch`]), sessions ([`session`]) with their files
//! ([`copy_up`], [`copy_down`], [`hostile`]), and the other commands ([`commands`],
//! [`cleanup`], [`serve`] with its keys ([`key`])).

mod cli;
mod fake;

mod usage;

mod interrupts;
mod output;
mod remote;
mod runs;
mod stdin;

mod copy_down;
mod copy_up;
mod hostile;
mod session;

mod cleanup;
mod commands;
mod key;
mod launch;
mod network;
mod serve;
