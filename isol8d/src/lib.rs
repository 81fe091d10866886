//! The daemon.

pub mod pool;
