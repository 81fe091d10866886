//! The filtering proxy.
