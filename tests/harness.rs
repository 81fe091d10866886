//! The harness of the end-to-end tests, in reading order: where things happen
//! ([`stage`]), what is done there ([`call`]), what outlives it ([`session`]),
//! what the host shows of it ([`host`]), what must not remain ([`leftovers`]), an
//! engine that a test may break ([`private_docker`]), an internet of a test's own
//! ([`internet`]) with its web servers ([`origin`]), names ([`resolver`]) and
//! certificates ([`authority`]), the gateway of a stage ([`gateway`]) and how it is
//! spoken to ([`http`], [`websocket`]), and patience ([`wait`]).

pub mod stage;

pub mod call;
pub mod session;

pub mod host;
pub mod leftovers;

pub mod private_docker;

pub mod authority;
pub mod internet;
pub mod origin;
pub mod resolver;

pub mod gateway;
pub mod http;
pub mod websocket;

pub mod wait;

/// [`both_engines!`] in an [`internet::Internet`] of the test's own; `with` adds
/// to the part `network` of the configuration.
#[macro_export]
macro_rules! both_engines_online {
    ($($(#[doc = $doc:expr])* fn $name:ident($stage:ident: &Stage, $internet:ident: &Internet) $(with $more:tt)? $body:block)*) => { $(
        $(#[doc = $doc])*
        mod $name {
            #[allow(unused_imports, reason = "not every body names something of its file")]
            use super::*;
            use $crate::harness::{internet::Internet, stage::{Stage, Engine}};

            fn body($stage: &Stage, $internet: &Internet) $body

            fn more() -> serde_json::Value {
                #[allow(unused_mut, unused_assignments, reason = "most add nothing")]
                let mut more = serde_json::json!({});
                $( more = serde_json::json!($more); )?
                more
            }

            #[test]
            fn docker() {
                Internet::with(Engine::Docker, &more(), body);
            }

            #[test]
            fn native() {
                Internet::with(Engine::Native, &more(), body);
            }
        }
    )* };
}

/// Writes each test once and runs it on both engines: `name::docker` and
/// `name::native`. The body gets a [`stage::Stage`] with a running daemon; at
/// the end the daemon is stopped and nothing may be left.
#[macro_export]
macro_rules! both_engines {
    ($($(#[doc = $doc:expr])* fn $name:ident($stage:ident: &Stage) $body:block)*) => { $(
        $(#[doc = $doc])*
        mod $name {
            #[allow(unused_imports, reason = "not every body names something of its file")]
            use super::*;
            use $crate::harness::stage::{Stage, Engine};

            fn body($stage: &Stage) $body

            #[test]
            fn docker() {
                Stage::with(Engine::Docker, body);
            }

            #[test]
            fn native() {
                Stage::with(Engine::Native, body);
            }
        }
    )* };
}
