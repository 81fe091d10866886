//! The filtering proxy of a filtered network.
//!
//! ```text
//!  program ─TCP─▶ serve ─▶ connection ─▶ guarded ─▶ hyper ─▶ service ─▶ route ─▶ net ─▶ origin
//!                            │            (head)              │          judge, resolve
//!                            │                                ▼          once, judge, dial
//!                            └──── after a CONNECT ────▶ tunnel (hello: SNI)
//!
//!  gate ─ session: the policy, the counts and the tasks of one run
//!  exchange: one request, and its record, written exactly once
//! ```
//!
//! Reading order: what is asked ([`head`]; pure), who may go on ([`gate`],
//! `session`), one request (`exchange`, `service`, `route`), the ways out
//! ([`net`], [`resolver`], [`upstream`], `hello`, `tunnel`), how bytes pass
//! (`meter`, `flow`, `pipe`, and `origin` and `rest` for an answer that is too
//! long for hyper to copy), what holds it together (`lane`, `guarded`, `answer`,
//! `connection`, [`mod@serve`]), and the process around it ([`confine`],
//! [`control`], [`process`]). What all of it may use stands in [`limits`].
//!
//! A tunnel carries TLS only, and TLS for the host that was judged: the name
//! in its first message must be the target of the CONNECT. What an encrypted
//! request inside asks of that host cannot be seen. `Upgrade` is not passed
//! on, so plain WebSockets do not work; those over TLS do.

pub mod head;
pub mod limits;

pub mod gate;
mod session;

mod exchange;
mod meter;
mod origin;
mod rest;
mod route;
mod service;

mod flow;
mod hello;
pub mod net;
mod pipe;
pub mod resolver;
mod tunnel;
pub mod upstream;

mod answer;
mod connection;
mod guarded;
mod lane;
pub mod serve;

pub mod confine;
pub mod control;
pub mod process;

pub use gate::{Gate, Totals};
pub use limits::Limits;
pub use net::Net;
pub use resolver::Resolver;
pub use serve::serve;
pub use upstream::{Bypass, Upstream};
