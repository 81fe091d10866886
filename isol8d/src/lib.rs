//! The daemon: everything between a client's call and an engine.
//!
//! Reading order: where it lives ([`paths`], [`kit`], [`socket`]), who speaks to
//! it ([`connection`], [`server`]), what passes the gate ([`convert`]), what
//! serves it ([`roster`], [`pool`], [`egress`]), a run and its way back (`run`, `outbox`,
//! [`status`]) and its record ([`audit`]), how it looks after itself ([`daemon`], [`reconcile`],
//! [`doctor`]), what it tells (`log`, `manager`), and how it is put together ([`assembly`]).

pub mod paths;

pub mod kit;
pub mod socket;

pub mod connection;
pub mod convert;
pub mod server;

pub mod egress;
pub mod pool;
pub mod roster;

pub mod audit;
mod files;
mod greeting;
mod images;
mod install;
mod layers;
mod outbox;
mod run;
mod session;
pub mod status;

mod cleanup;
pub mod daemon;
pub mod doctor;
pub mod reconcile;

pub mod assembly;
pub mod log;
mod manager;
pub mod signals;

pub use server::serve;
