//! The egress process from the daemon's side: the real binary, real sockets,
//! real deaths. What the proxy lets pass is tested in its own crate.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod rig;

mod control;
mod death;
mod life;
mod posture;
mod trouble;
