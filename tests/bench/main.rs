//! The benchmark behind `make bench`.
fn main() {}
