//! Packages of a run. `real` takes them from the real registries; the others
//! from a registry of the test's own ([`registry`]), in an internet of its own:
//! `cache` counts what is fetched, `hostile` is what a package can try, `names`
//! what is refused before anything runs.

pub(crate) mod registry;

mod cache;
mod hostile;
mod names;
mod real;
