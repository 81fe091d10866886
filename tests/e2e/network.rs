//! The filtered network: what leaves a sandbox, what does not, and what is
//! written down about it. Everything happens in an internet of the test's own,
//! where every address answers: what slips through is seen, wherever it goes.
//!
//! [`vector`] is the table of requests and how it is checked; `addresses`,
//! `names`, `heads` and `tunnels` are the requests; `walls` is what a program
//! finds when it goes round the proxy; `clients` are the usual tools; `log` is
//! the record; `rules` is what the command line says about patterns; `broken`
//! is a proxy that dies and origins that misbehave; `surroundings` are
//! corporate proxies and authorities; `host` is the host's own network.

mod vector;

mod addresses;
mod heads;
mod names;
mod tunnels;

mod clients;
mod walls;

mod log;
mod rules;

mod broken;
mod host;
mod surroundings;
