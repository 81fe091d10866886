//! The daemon from a client's side, on engines that do as they are told: real
//! gRPC over pipes, a clock that jumps. What only Docker or the kernel can show
//! is in tests/e2e.

mod stage;

mod audit;
mod chaos;
mod cleanup;
mod faults;
mod files;
mod images;
mod install;
mod install_room;
mod install_system;
mod life;
mod output;
mod queue;
mod requests;
mod runs;
mod sessions;
mod socket;
