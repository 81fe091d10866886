//! What a filtered sandbox may reach, and what is written down about it.
//!
//! [`host`] makes one text of every spelling of a host, [`address`] says which
//! addresses are nobody's business, [`pattern`] is one entry of a list,
//! [`rules`] puts them together and judges, [`record`] is a line of the log,
//! [`redact`] takes secrets out of it.
//! Nothing here resolves, dials or reads a clock: the proxy does, and asks.
//!
//! A request is judged in this order: port, deny list, allow list together with
//! the registries, and then each address that the name stands for. What is
//! dialled is the address that was judged.

pub mod address;
pub mod host;
pub mod pattern;
pub mod record;
pub mod redact;
pub mod rules;
