//! Fuzzes [`isol8_fuzz::head`]. Without `--cfg fuzzing` it reads files: those
//! that a fuzzer left behind, to see what is wrong with them.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| isol8_fuzz::head(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    isol8_fuzz::replay(std::env::args_os().skip(1), isol8_fuzz::head)
}
