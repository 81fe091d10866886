//! Hints of the daemon are for its own machine. What they say to type is no help to
//! who is somewhere else, where the same exists over HTTP.

const LIST: &str = "`isol8 session ls`";
const REMOVE: &str = "`isol8 session rm ";

/// The same hint for who comes over HTTP.
pub(crate) fn over_http(hint: &str) -> String {
    let mut hint = hint.replace(LIST, "`GET /sessions`");
    while let Some(replaced) = removal(&hint) {
        hint = replaced;
    }
    hint
}

/// As [`over_http`], for who has no command line of ours either.
pub(super) fn in_fields(hint: &str) -> String {
    let hint = over_http(hint).replace("`--session <name>`", "`sessionId`");
    hint.replace("`--session`", "`sessionId`")
}

/// With the first removal of a session as a request.
fn removal(hint: &str) -> Option<String> {
    let from = hint.find(REMOVE)?;
    let words = &hint[from + REMOVE.len()..];
    let (words, rest) = words.split_once('`')?;
    let (name, query) = match words.strip_prefix("--force ") {
        Some(name) => (name, "?force=true"),
        None => (words, ""),
    };
    // A file is removed by a program alone.
    let is_session = !name.contains([' ', ':']) && !name.starts_with('-');
    is_session.then(|| format!("{}`DELETE /session/{name}{query}`{rest}", &hint[..from]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_over_http_is_said_so() {
        for (hint, expected) in [
            (
                "use `--session <name>` or `isol8 session rm work`",
                "use `sessionId` or `DELETE /session/work`",
            ),
            (
                "remove some: `isol8 session ls`, `isol8 session rm <name>`",
                "remove some: `GET /sessions`, `DELETE /session/<name>`",
            ),
            (
                "wait for it to end, or `isol8 session rm --force work`",
                "wait for it to end, or `DELETE /session/work?force=true`",
            ),
            (
                "remove it: `isol8 session rm <name>:/sandbox/main.<extension>`",
                "remove it: `isol8 session rm <name>:/sandbox/main.<extension>`",
            ),
            ("`isol8 session rm", "`isol8 session rm"),
            ("allow more with `--memory`", "allow more with `--memory`"),
        ] {
            assert_eq!(in_fields(hint), expected);
        }
        let flag = "leave that out, or use another one with `--session`";
        assert_eq!(over_http(flag), flag, "the command line has it");
    }
}
