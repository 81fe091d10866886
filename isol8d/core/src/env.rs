//! The environment of a program: what every sandbox gives, and which variables
//! an interpreter reads before its script.

use std::collections::{BTreeMap, BTreeSet};

use crate::runtime::Runtime;

/// Where the program lives and what its home is.
pub const HOME: &str = "/sandbox";

/// The kit's hook folder for python, put on PYTHONPATH of a parked one.
pub const PYTHON_HOOKS: &str = "/isol8/kit/park/python";

/// Where installed commands land, before the image's own folders.
const INSTALL_FOLDERS: [&str; 3] = [
    "/sandbox/.local/bin",
    "/sandbox/node_modules/.bin",
    "/sandbox/.deno/bin",
];

/// For an image that names no PATH.
const USUAL_FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment that a program of `runtime` gets before anything that was
/// asked for. `interpreter_path` is the PATH of the image or host,
/// colon-separated; empty means the usual folders.
#[must_use]
pub fn base(runtime: Runtime, interpreter_path: &str) -> BTreeMap<String, String> {
    // Every variable for every runtime: bash programs call python and node too.
    let _ = runtime;
    let fixed = [
        ("HOME", HOME),
        ("USER", "sandbox"),
        ("LOGNAME", "sandbox"),
        ("LANG", "C.UTF-8"),
        ("TMPDIR", "/tmp"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONUSERBASE", "/sandbox/.local"),
        ("NODE_PATH", "/sandbox/node_modules"),
        ("DENO_DIR", "/sandbox/.deno"),
    ];
    let mut env: BTreeMap<String, String> = fixed
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    env.insert("PATH".to_owned(), search_path(interpreter_path));
    env
}

/// The install folders, then `rest` without empty entries (an empty entry means
/// the working directory) and without repeats.
fn search_path(rest: &str) -> String {
    let rest = if rest.is_empty() { USUAL_FOLDERS } else { rest };
    let mut seen = BTreeSet::new();
    INSTALL_FOLDERS
        .into_iter()
        .chain(rest.split(':'))
        .filter(|folder| !folder.is_empty() && seen.insert(*folder))
        .collect::<Vec<_>>()
        .join(":")
}

/// Whether an interpreter of `runtime` (or the loader and libc below it) looks
/// at `name` before it opens its script. A parked interpreter is past that
/// point, so a request that sets such a variable needs a plain start.
#[must_use]
pub fn is_read_at_start(runtime: Runtime, name: &str) -> bool {
    const EVERYWHERE: [&str; 8] = [
        "LD_", "MALLOC_", "GLIBC_", "GCONV_", "LOCPATH", "LANG", "LC_", "TZ",
    ];
    let own: &[&str] = match runtime {
        Runtime::Python => &["PYTHON", "OPENSSL_"],
        Runtime::Node => &["NODE_", "UV_", "OPENSSL_", "SSL_CERT_", "V8_", "ICU_"],
        Runtime::Bun => &["BUN_", "NODE_", "JSC_", "WTF_"],
        Runtime::Deno => &["DENO_", "NODE_", "V8_", "NO_COLOR", "RUST_"],
        Runtime::Bash => &["BASH", "ENV", "POSIXLY_CORRECT", "SHELLOPTS", "IFS", "PS4"],
    };
    let mut prefixes = EVERYWHERE.iter().chain(own);
    prefixes.any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_folders_come_first_and_nothing_twice() {
        let env = base(Runtime::Python, "/opt/py/bin::/usr/bin:/opt/py/bin");
        assert_eq!(
            env["PATH"],
            "/sandbox/.local/bin:/sandbox/node_modules/.bin:/sandbox/.deno/bin:/opt/py/bin:/usr/bin"
        );
    }

    #[test]
    fn an_image_without_path_gets_the_usual_one() {
        assert!(base(Runtime::Bash, "")["PATH"].ends_with(USUAL_FOLDERS));
    }

    #[test]
    fn nothing_but_the_contract_is_in_it() {
        let names: Vec<_> = base(Runtime::Node, "/bin").into_keys().collect();
        assert_eq!(
            names.join(" "),
            "DENO_DIR HOME LANG LOGNAME NODE_PATH PATH PYTHONUNBUFFERED PYTHONUSERBASE TMPDIR USER"
        );
    }

    #[test]
    fn what_an_interpreter_reads_at_its_start_is_known() {
        for (runtime, name, expected) in [
            (Runtime::Python, "PYTHONHASHSEED", true),
            (Runtime::Python, "LD_PRELOAD", true),
            (Runtime::Python, "LC_ALL", true),
            (Runtime::Python, "TZ", true),
            (Runtime::Python, "NODE_OPTIONS", false),
            (Runtime::Python, "MY_PYTHON", false),
            (Runtime::Node, "NODE_OPTIONS", true),
            (Runtime::Node, "PYTHONPATH", false),
            (Runtime::Bun, "BUN_CONFIG_REGISTRY", true),
            (Runtime::Deno, "DENO_V8_FLAGS", true),
            (Runtime::Bash, "BASH_ENV", true),
            (Runtime::Node, "API_KEY", false),
        ] {
            assert_eq!(is_read_at_start(runtime, name), expected, "{name}");
        }
    }
}
