//! The domain of isol8 as pure values: no clock, no I/O, no async.
//!
//! Reading order: what a run is made of ([`ids`], [`quantity`], [`runtime`]),
//! what the operator wants ([`config`]), what is asked ([`request`], [`env`]),
//! who may go first ([`admission`]), what serves it ([`sandbox`],
//! [`pool`], [`session`]), what leaves ([`mask`], [`output`]), how it ends ([`outcome`],
//! [`failure`]), and how a log line is written ([`journal`]).

pub mod ids;
pub mod quantity;
pub mod runtime;

pub mod config;

pub mod admission;
pub mod env;
pub mod module_kind;
pub mod package;
pub mod park;
pub mod request;

pub mod pool;
pub mod sandbox;
pub mod session;

pub mod egress;
pub mod layer;

pub mod mask;
pub mod output;

pub mod failure;
pub mod outcome;

pub mod journal;
