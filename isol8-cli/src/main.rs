//! The isol8 command line.
fn main() {}
