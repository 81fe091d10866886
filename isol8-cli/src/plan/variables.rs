//! `--env` and `--secret`. No message here ever shows a value.

use std::{collections::HashMap, ffi::OsString};

use isol8_core::{failure::Failure, mask::MIN_SECRET_BYTES};

use super::wrong;

/// `--env KEY=VALUE`; of two with one name the last counts.
pub(super) fn plain(given: &[String]) -> Result<HashMap<String, String>, Failure> {
    let mut variables = HashMap::new();
    for text in given {
        let Some((name, value)) = text.split_once('=') else {
            return Err(wrong(format!("`--env {}` has no value", shown(text)))
                .hint("write it like `--env KEY=VALUE`"));
        };
        check_name("--env", name)?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(variables)
}

/// `--secret KEY=VALUE`, or `--secret KEY` for a variable of ours.
pub(super) fn secret(
    given: &[String],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<HashMap<String, String>, Failure> {
    let mut secrets = HashMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (text.as_str(), own(text, env)?),
        };
        check_name("--secret", name)?;
        if value.len() < MIN_SECRET_BYTES {
            return Err(wrong(format!(
                "the value of secret `{name}` is too short to be masked"
            ))
            .cause(format!("it has under {MIN_SECRET_BYTES} bytes"))
            .hint(format!("if it is no secret, give it with `--env {name}=…`")));
        }
        secrets.insert(name.to_owned(), value);
    }
    Ok(secrets)
}

fn own(name: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Result<String, Failure> {
    check_name("--secret", name)?;
    let Some(value) = env(name) else {
        return Err(wrong(format!(
            "`--secret {}` names a variable that is not set",
            shown(name)
        ))
        .hint("write it like `--secret KEY=VALUE`, or export the variable first"));
    };
    value
        .into_string()
        .map_err(|_| wrong(format!("the value of `{name}` is not valid UTF-8")))
}

fn check_name(flag: &str, name: &str) -> Result<(), Failure> {
    let hint = format!("write it like `{flag} KEY=VALUE`");
    if name.is_empty() {
        return Err(wrong(format!("`{flag}` without a name")).hint(hint));
    }
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    if !name.chars().all(plain) {
        return Err(
            wrong(format!("`{flag}` with a name that no variable can have"))
                .cause("names have no blanks and no control characters")
                .hint(hint),
        );
    }
    Ok(())
}

/// A text without `=` may be a name, or a value in the wrong place: only what
/// looks like a name is shown.
fn shown(text: &str) -> &str {
    const LONGEST_NAME: usize = 40;
    let named = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if text.len() <= LONGEST_NAME && text.chars().all(named) {
        text
    } else {
        "…"
    }
}
