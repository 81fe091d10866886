//! Transfers against an init of the tests' own making: what it hears, and what
//! it says, down to the frame.

mod get;
pub(crate) mod init;
mod put;
mod small;
