//! The egress process from the daemon's side: the real binary, real sockets,
//! real deaths. What the proxy lets pass is tested in its own crate.

mod rig;

mod control;
mod death;
mod life;
mod posture;
mod trouble;
