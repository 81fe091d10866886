//! Sessions: what lasts between runs and what does not, who may have one, what
//! it survives, and the files that go in and out.

mod copies;
mod ends;
mod expiry;
mod hostile;
mod kept;
mod lasting;
mod lost;
mod owners;
mod packages;
mod restarts;
mod terms;
mod turns;
