//! The proxy on real sockets of loopback, with names of its own.

mod rig;

mod framing;
mod judging;
mod life;
mod limits;
mod throughput;
mod tunnels;
mod upstream;
