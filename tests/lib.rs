//! What the end-to-end tests share: a stage with a daemon of its own, calls of
//! the command line, and a look at what a test left on the host.

pub mod harness;
