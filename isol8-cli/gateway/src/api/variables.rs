//! Environment variables of a run. The daemon checks them again; here it is known
//! which field was wrong.

use std::collections::BTreeMap;

use serde::{Deserialize as _, Deserializer, de::Error as _};

/// What a variable may be called, as a regular expression.
pub(super) const NAME: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// Names and values as a program can have them.
pub(super) fn read<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let all = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (name, value) in &all {
        if !is_name(name) {
            let shown: String = name.chars().take(64).collect();
            return Err(D::Error::custom(format_args!(
                "`{}` is not a variable name; use letters, digits and `_`, not a digit first",
                shown.escape_debug()
            )));
        }
        // The value is never shown: it may be a secret.
        if value.contains('\0') {
            let message = format_args!("the value of `{name}` has a NUL character in it");
            return Err(D::Error::custom(message));
        }
    }
    Ok(all)
}

fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_digit_first = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_digit());
    !text.is_empty() && !is_digit_first && text.bytes().all(rest)
}
