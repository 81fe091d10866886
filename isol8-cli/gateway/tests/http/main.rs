//! A gateway over real TCP, before a daemon that the test scripts.
//!
//! [`fake`] is that daemon, [`stage`] starts both, [`client`] and
//! [`websocket`] speak HTTP by hand, so that they can also speak it badly. Then who may come in ([`doors`], [`keys`]), runs
//! ([`execute`], [`stream`], [`socket`], [`remote`]), sessions with their files ([`sessions`], [`files`]),
//! what tells of the gateway itself ([`system`], [`ui`]), clients that mean no good
//! ([`hostile`], [`shares`]), and the end ([`stop`]).

mod client;
mod fake;
mod stage;
mod websocket;

mod doors;
mod execute;
mod keys;
mod remote;
mod socket;
mod stream;

mod files;
mod sessions;

mod system;
mod ui;

mod hostile;
mod shares;
mod stop;
