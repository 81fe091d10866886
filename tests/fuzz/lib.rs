//! What must hold whatever bytes arrive: one function for each parser that
//! stands between a sandbox and the network. Each panics when it does not.
//!
//! `make fuzz` runs them under libFuzzer; `cargo test` runs them on the seeds.

use std::{ffi::OsString, fs, io};

mod head;
mod host;
mod numeric;
mod rules;

pub use head::head;
pub use host::host;
pub use rules::rules;

/// Runs a check on files.
///
/// # Errors
/// A file that cannot be read.
///
/// # Panics
/// When the check does.
pub fn replay(files: impl Iterator<Item = OsString>, check: fn(&[u8])) -> io::Result<()> {
    for file in files {
        check(&fs::read(file)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn seeds(target: &str, check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("seeds")
            .join(target);
        let files = fs::read_dir(folder).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(files.len() >= 10, "{target} has only {} seeds", files.len());
        files.sort();
        replay(files.into_iter().map(OsString::from), check).unwrap();
    }

    #[test]
    fn host_seeds() {
        seeds("host", host);
    }

    #[test]
    fn rules_seeds() {
        seeds("rules", rules);
    }

    #[test]
    fn head_seeds() {
        seeds("head", head);
    }
}
