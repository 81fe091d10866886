//! The HTTP gateway: what `isol8 serve` runs.
//!
//! It is a client of the daemon like any other: whatever comes over HTTP becomes
//! the calls of `isol8.v1`, and there is no other way in.
//!
//! Reading order: who may come in ([`keys`], [`policy`], [`guard`]), how
//! connections live ([`accept`], [`answering`], [`seats`], [`shares`], [`patient`], [`meter`], [`bounds`]), what is asked and
//! answered ([`api`], [`body`], [`refusal`]), the daemon behind it ([`daemon`]), one
//! run ([`job`], [`requests`], [`execution`], [`outcome`], [`narrator`], [`relay`], [`files`], [`sessions`]), and the paths
//! ([`routes`]) with what is counted of them ([`metrics`]).

mod bounds;
mod keys;
mod policy;

mod accept;
mod answering;
mod gateway;
mod guard;
mod meter;
mod patient;
mod seats;
mod sessions;
mod shares;

mod api;
mod body;
mod refusal;

mod daemon;
mod execution;
mod files;
mod job;
mod narrator;
mod outcome;
mod relay;
mod requests;

mod metrics;
mod routes;

pub use bounds::Bounds;
pub use daemon::{Daemon, Dial};
pub use gateway::{Gateway, Settings};
pub use keys::{Keeper, Key, KeyName, Keys, NewKey, Rotation, Sources, Store, Stored, WrongName};
pub use outcome::record;
pub use policy::{Policy, Usual};
