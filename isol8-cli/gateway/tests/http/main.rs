//! A gateway over real TCP, before a daemon that the test scripts.
//!
//! [`fake`] is that daemon, [`stage`] starts both, [`client`] speaks HTTP by hand,
//! so that it can also speak it badly. Then who may come in ([`doors`], [`keys`]), runs
//! ([`execute`], [`stream`], [`socket`]), sessions with their files ([`sessions`], [`files`]),
//! what tells of the gateway itself ([`system`], [`ui`]), clients that mean no good
//! ([`hostile`]), and the end ([`stop`]).

mod client;
mod fake;
mod stage;

mod doors;
mod execute;
mod keys;
mod socket;
mod stream;

mod files;
mod sessions;

mod system;
mod ui;

mod hostile;
mod stop;
