//! `isol8 serve`: runs that come in over HTTP.
//!
//! `requests` and `options` are the fields of a run, `results` what comes back,
//! `streams` and `sockets` what comes while it runs, `files` and `surroundings`
//! the other paths, `keys` who may come in, `refusals` and `ceiling` what is turned
//! away. Then those who mean no good: `slow`, `stuck`, `dropped`, `burst`, `bodies`,
//! `shapes`, `targets`. `ends` is how a gateway and its daemon end, `fuzz` what a
//! fuzzer finds that reads the document.

mod ceiling;
mod files;
mod keys;
mod options;
mod refusals;
mod requests;
mod results;
mod sockets;
mod streams;
mod surroundings;

mod bodies;
mod burst;
mod dropped;
mod ends;
mod fuzz;
mod shapes;
mod slow;
mod stuck;
mod targets;
