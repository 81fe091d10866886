//! The real init in a pid namespace of its own, driven over its socket as the
//! daemon drives it. bubblewrap makes the namespace and /sandbox; without it
//! the tests fail and say so.

mod rig;

mod ending;
mod fetch;
mod files;
mod flow;
mod folders;
mod lasting;
mod links;
mod many;
mod names;
mod parked;
mod runs;
mod starting;
mod tamper;
