//! The environment of a program: what every sandbox gives, and which variables
//! an interpreter reads before its script.

use std::collections::{BTreeMap, BTreeSet};

use crate::{runtime::Runtime, sandbox::Network};

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

/// Where the filtering proxy listens inside a sandbox.
pub const PROXY_PORT: u16 = 8118;

/// What points programs to the proxy. Both spellings are in use, and curl takes
/// the lower one alone for plain HTTP.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// What points programs and installers to the file of certificate authorities.
const AUTHORITY_VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "DENO_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];

/// What the environment of a program depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings<'a> {
    /// The PATH of the image or host, colon-separated; empty means the usual
    /// folders.
    pub path: &'a str,
    /// What the program can reach.
    pub network: Network,
    /// The file of certificate authorities inside, where one is configured.
    pub authorities: Option<&'a str>,
    /// Where deno has its modules; `None` is below /sandbox.
    pub deno_dir: Option<&'a str>,
}

impl<'a> Surroundings<'a> {
    /// No network and no authorities of its own.
    #[must_use]
    pub const fn alone(path: &'a str) -> Self {
        Self {
            path,
            network: Network::None,
            authorities: None,
            deno_dir: None,
        }
    }
}

/// The environment that a program gets before anything that was asked for. It is
/// the same for every runtime: bash programs call python and node too.
#[must_use]
pub fn base(surroundings: &Surroundings<'_>) -> BTreeMap<String, String> {
    let fixed = [
        ("HOME", HOME),
        ("USER", "sandbox"),
        ("LOGNAME", "sandbox"),
        ("LANG", "C.UTF-8"),
        ("TMPDIR", "/tmp"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONUSERBASE", "/sandbox/.local"),
        ("NODE_PATH", "/sandbox/node_modules"),
        (
            "DENO_DIR",
            surroundings.deno_dir.unwrap_or("/sandbox/.deno"),
        ),
    ];
    let mut env: BTreeMap<String, String> = fixed
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    env.insert("PATH".to_owned(), search_path(surroundings.path));
    if surroundings.network == Network::Filtered {
        env.extend(proxy());
    }
    if let Some(file) = surroundings.authorities {
        env.extend(AUTHORITY_VARIABLES.map(|name| (name.to_owned(), file.to_owned())));
    }
    env
}

fn proxy() -> impl Iterator<Item = (String, String)> {
    let address = format!("http://127.0.0.1:{PROXY_PORT}");
    let own = "localhost,127.0.0.1,::1";
    let proxies = PROXY_VARIABLES.map(|name| (name.to_owned(), address.clone()));
    let direct = ["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), own.to_owned()));
    // Node's fetch and http look at none of these without it.
    let node = ("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned());
    proxies.into_iter().chain(direct).chain([node])
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
    /// With `NODE_USE_ENV_PROXY` node makes its agents of these at its start.
    const PROXY: [&str; 6] = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ];
    if runtime == Runtime::Node && PROXY.contains(&name) {
        return true;
    }
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
    fn a_filtered_network_is_reached_through_the_proxy() {
        let env = base(&Surroundings {
            network: Network::Filtered,
            ..Surroundings::alone("")
        });
        assert_eq!(env["https_proxy"], "http://127.0.0.1:8118");
        assert_eq!(env["NO_PROXY"], "localhost,127.0.0.1,::1");
        assert!(!base(&Surroundings::alone("")).contains_key("HTTP_PROXY"));
    }

    #[test]
    fn authorities_reach_every_tool() {
        let env = base(&Surroundings {
            authorities: Some("/x.crt"),
            ..Surroundings::alone("")
        });
        let pointing = env.values().filter(|value| *value == "/x.crt").count();
        assert_eq!(pointing, AUTHORITY_VARIABLES.len());
    }

    #[test]
    fn an_image_may_have_denos_modules_elsewhere() {
        let env = base(&Surroundings {
            deno_dir: Some("/opt/deno"),
            ..Surroundings::alone("")
        });
        assert_eq!(env["DENO_DIR"], "/opt/deno");
        assert_eq!(base(&Surroundings::alone(""))["DENO_DIR"], "/sandbox/.deno");
    }

    #[test]
    fn install_folders_come_first_and_nothing_twice() {
        let env = base(&Surroundings::alone("/opt/py/bin::/usr/bin:/opt/py/bin"));
        assert_eq!(
            env["PATH"],
            "/sandbox/.local/bin:/sandbox/node_modules/.bin:/sandbox/.deno/bin:/opt/py/bin:/usr/bin"
        );
    }

    #[test]
    fn an_image_without_path_gets_the_usual_one() {
        assert!(base(&Surroundings::alone(""))["PATH"].ends_with(USUAL_FOLDERS));
    }

    #[test]
    fn nothing_but_the_contract_is_in_it() {
        let names: Vec<_> = base(&Surroundings::alone("/bin")).into_keys().collect();
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
            (Runtime::Node, "https_proxy", true),
            (Runtime::Python, "https_proxy", false),
            (Runtime::Bun, "BUN_CONFIG_REGISTRY", true),
            (Runtime::Deno, "DENO_V8_FLAGS", true),
            (Runtime::Bash, "BASH_ENV", true),
            (Runtime::Node, "API_KEY", false),
        ] {
            assert_eq!(is_read_at_start(runtime, name), expected, "{name}");
        }
    }
}
