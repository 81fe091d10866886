//! The domain of isol8 as pure values: no clock, no I/O, no async.
//!
//! Reading order: what a run is made of ([`ids`], [`quantity`], [`runtime`]),
//! what is asked ([`request`]), what serves it ([`sandbox`]), how it ends
//! ([`outcome`], [`failure`]).

pub mod ids;
pub mod quantity;
pub mod runtime;

pub mod request;
pub mod sandbox;

pub mod failure;
pub mod outcome;
