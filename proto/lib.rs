//! The wire surface of isol8, generated from `proto/**.proto` by `build.rs`.
//!
//! `v1` is what clients speak to the daemon (feature `grpc`); `init` is what the
//! daemon speaks to PID 1 of a sandbox. There is no logic here.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// gRPC services and messages of the daemon, `isol8.v1`.
#[cfg(feature = "grpc")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/isol8.v1.rs"));
}

/// Messages between the daemon and init, `isol8.init.v1`.
pub mod init {
    include!(concat!(env!("OUT_DIR"), "/isol8.init.v1.rs"));
}

/// The encoded descriptor set of every file, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/isol8.bin"));
