//! The Docker engine against a real one: containers, limits, figures, and what
//! is left when something goes wrong. Needs an engine and fails without.
//!
//! `ISOL8_BIN_DIR` names a folder with `isol8-init`; without it cargo builds one.
//! `ISOL8_TEST_CA_BUNDLE` names authorities for images that are built here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod bench;
#[path = "../shared/mod.rs"]
mod shared;

mod custom;
mod images;
mod lasting;
mod life;
mod network;
mod packages;
mod removal;
mod trouble;
