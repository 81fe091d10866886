//! The proxy on real sockets of loopback, with names of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod rig;

mod framing;
mod judging;
mod life;
mod limits;
mod neighbours;
mod spliced;
mod throughput;
mod tunnels;
mod upstream;
