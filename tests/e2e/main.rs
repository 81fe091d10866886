//! End-to-end tests: the released binaries on real engines, each test on a
//! daemon of its own, each promise on both engines.
//!
//! `run` is what a person sees of a run, `usage` what is refused before one,
//! `isolation` what a sandbox is, `network` what leaves it, `install` what is
//! added to it, `images` what is in its image, `exhaustion` and `escape` what
//! hostile programs try, `secrets` and `tenants` what must not reach others,
//! `sessions` what outlives a run, `kill` that it outlives the daemon too,
//! `cleanup` how it ends, `serve` what comes in over HTTP, `remote` runs on another machine, `ui` the page that a browser shows of it,
//! `clients` what other languages see, `systemd` what a service manager sees, `package` a real one, `docs` what the pages promise, `faults` what happens when the world around a run breaks.
//!
//! Cases have numbers, so that a finding can be talked about: RX is a resource
//! that runs out, ES a way out of the sandbox, NE a way out by the network, PR
//! a package that misbehaves, SL a secret that leaks, XR one run that meets
//! another, FA a file that is not what it seems.

#[macro_use]
extern crate isol8_e2e;

mod run;
mod usage;

mod isolation;

mod images;
mod install;
mod network;

mod escape;
mod exhaustion;

mod secrets;
mod tenants;

mod cleanup;
mod kill;
mod sessions;

mod clients;
mod engine_faults;
mod faults;
mod package;
mod remote;
mod serve;
mod sockets;
mod systemd;
mod ui;
mod unprivileged;

mod docs;
mod soak;
