//! What fields may look like, in the words of JSON Schema. What checks them is
//! elsewhere; a test holds both against each other.

/// As [`crate::job::SessionId`].
pub(crate) const SESSION_ID: &str = "^[A-Za-z0-9._-]{1,46}$";

/// As [`crate::files::check_path`]: below the two folders, and not up.
pub(crate) const PATH: &str =
    r"^(?!([^\x00]*/)?\.\.(/|$))((?!/)[^\x00]+|/(\.?/)*(sandbox|tmp)(/[^\x00]*)?)$";

/// Of a program's file.
pub(super) const EXTENSION: &str = r"^\.?[a-z0-9]{0,8}$";

/// Strict: padded, and without bits that say nothing.
pub(super) const BASE64: &str =
    "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/// A number of bytes with an optional unit.
pub(super) const SIZE: &str = "^0*[1-9][0-9]{0,9}([kKmMgGtT][iI]?)?[bB]?$";

/// 30 days.
pub(super) const MAX_TIMEOUT_MS: u64 = 2_592_000_000;

/// Of one stream.
pub(super) const MAX_OUTPUT_BYTES: u64 = 16 << 20;
