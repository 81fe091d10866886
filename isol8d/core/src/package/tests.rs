use proptest::prelude::*;

use super::*;

#[track_caller]
fn good(runtime: Runtime, texts: &[&str]) {
    for text in texts {
        match Package::parse(runtime, text) {
            Ok(package) => assert_eq!(package.as_str(), *text),
            Err(error) => panic!("{runtime} {text:?}: {error}"),
        }
    }
}

#[track_caller]
fn bad(runtime: Runtime, texts: &[&str]) {
    for text in texts {
        assert!(Package::parse(runtime, text).is_err(), "{runtime} {text:?}");
    }
}

/// What no runtime takes, whatever stands around it.
const NEVER: [&str; 34] = [
    "",
    " ",
    "-",
    "--",
    "-r",
    "-r/sandbox/x",
    "--index-url=http://e",
    "-e.",
    "--",
    "p;id",
    "p|id",
    "p&id",
    "p&&id",
    "p$(id)",
    "p`id`",
    "p${IFS}x",
    "p\nid",
    "p\rid",
    "p\tid",
    "p id",
    "p\0",
    "p\\x",
    "p'x",
    "p\"x",
    "p(x)",
    "p{a,b}",
    "p#x",
    "p!x",
    "/sandbox/e.whl",
    "./x",
    "../x",
    "~/x",
    "file:///etc/passwd",
    "git+https://h/r@--upload-pack=id",
];

#[test]
fn nothing_that_is_an_option_a_path_or_shell_text() {
    for runtime in Runtime::ALL {
        bad(runtime, &NEVER);
        bad(
            runtime,
            &["ｐ", "päckchen", "p\u{202e}", "p\u{200b}", "\u{feff}p"],
        );
        bad(runtime, &[&"a".repeat(LONGEST_PACKAGE + 1)]);
    }
}

#[test]
fn python_takes_names_extras_and_versions() {
    good(
        Runtime::Python,
        &[
            "numpy",
            "NumPy",
            "ruamel.yaml",
            "typing_extensions",
            "zope.interface",
            "a",
            "7zip",
            "requests[socks]",
            "requests[socks,use-chardet-on-py3]",
            "numpy==2.1.0",
            "numpy==2.*",
            "numpy!=2.1.*",
            "numpy>=2,<3",
            "numpy~=2.1",
            "numpy<=3",
            "numpy<3",
            "numpy>1",
            "torch==2.3.0+cu118",
            "x==1!2.0",
            "x==1.0.dev1",
            "x==1.0rc1",
            "x[y]>=1,!=1.5",
            "uvicorn[standard]==0.30.1",
        ],
    );
    bad(
        Runtime::Python,
        &[
            "numpy@https://example.com/x.whl",
            "https://example.com/x.whl",
            "numpy-1.0-py3-none-any.whl",
            "x.zip",
            "x.tar.gz",
            "X.TAR.GZ",
            "x.zip[extra]",
            "x==1.zip",
            "x.egg",
            "git+ssh://h/r",
            ".",
            "..",
            ".hidden",
            "_x",
            "x-",
            "x.",
            "x[",
            "x[]",
            "x[a",
            "x[a,]",
            "x]a[",
            "x[a]b",
            "x=1",
            "x==",
            "x===1",
            "x==*",
            "x==-1",
            "x>=2.*",
            "x>=1,",
            "x,y",
            "x==1,y",
            "x==1;python_version<'3'",
            "a/b",
            "a:b",
            "@a/b",
            "*",
            "x*",
        ],
    );
}

#[test]
fn node_and_bun_take_names_scopes_and_ranges() {
    for runtime in [Runtime::Node, Runtime::Bun] {
        good(
            runtime,
            &[
                "lodash",
                "JSONStream",
                "socket.io",
                "lodash.merge",
                "is-odd",
                "@scope/name",
                "@types/node",
                "lodash@4",
                "lodash@4.17.21",
                "lodash@^4.17",
                "lodash@~4.17",
                "lodash@>=4",
                "lodash@<5",
                "lodash@<=5",
                "lodash@=4.17.21",
                "lodash@*",
                "lodash@4.x",
                "lodash@latest",
                "next@canary",
                "@scope/name@1.2.3-rc.1+build",
                "alias@npm:lodash",
                "alias@npm:@scope/name@^1",
                "@my/alias@npm:lodash@4",
            ],
        );
        bad(
            runtime,
            &[
                "owner/repository",
                "github:owner/repository",
                "git://h/r",
                "git@github.com:o/r",
                "http://h/x.tgz",
                "https://h/x",
                "x.tgz",
                "x.tar.gz",
                "x@1.tgz",
                "X.TGZ",
                "x@file:../y",
                "x@http://h/y",
                "x@github:o/r",
                "x@workspace:*",
                "x@npm:y@npm:z",
                "x@npm:",
                "npm:x",
                "@",
                "@/x",
                "@scope",
                "@scope/",
                "@scope/a/b",
                "@scope/../x",
                "x@",
                "x@^",
                "x@>",
                "x@>=",
                "x@-1",
                "x@--y",
                "x@1||2",
                "x@1 2",
                ".x",
                "_x",
                "~x",
                "x@@1",
                "x@1@2",
                "C:x",
                "x@../y",
                "@-a/x",
                "@a/-x",
                "x@.",
                "x@..",
                "..",
            ],
        );
    }
}

#[test]
fn deno_takes_registries_and_https() {
    good(
        Runtime::Deno,
        &[
            "npm:chalk",
            "npm:chalk@5",
            "npm:chalk@^5.3",
            "npm:@scope/name@1",
            "npm:chalk@5/source",
            "npm:chalk/source/index.js",
            "npm:@scope/name@1/sub/path",
            "npm:@scope/name/sub",
            "jsr:@std/path",
            "jsr:@std/path@1",
            "jsr:@std/path@^1.0.0",
            "jsr:@std/path@1/posix",
            "https://deno.example/std@0.224.0/path/mod.ts",
            "https://deno.example",
            "https://h.example:8443/x",
            "https://h.example/a%20b",
            "https://h.example/react@18?target=deno",
            "https://127.0.0.1/x.ts",
        ],
    );
    bad(
        Runtime::Deno,
        &[
            "chalk",
            "node:fs",
            "http://h.example/x.ts",
            "HTTPS://h.example/x.ts",
            "file:///x.ts",
            "data:text/javascript,1",
            "blob:x",
            "jsr:path",
            "jsr:@std",
            "npm:",
            "npm:@scope",
            "npm:chalk/../x",
            "npm:chalk//x",
            "npm:chalk/",
            "npm:chalk@5/./x",
            "npm:/chalk",
            "npm:../x",
            "npm:-x",
            "npm:x.tgz",
            "https://",
            "https:///h/x",
            "https:/h/x",
            "https://user@h/x",
            "https://@h/x",
            "https://u:p@h/x",
            "https://h:/x",
            "https://h:99999/x",
            "https://h:8x/x",
            "https://h%41/x",
            "https://a..b/x",
            "https://-h/x",
            "https://h/x#y",
            "https://h/%",
            "https://h/%4",
            "https://h/%zz",
            "https://h.1/x",
            "https://[::1]/x",
            "https://h/x&y",
            "https://?x",
            "ws://h/x",
        ],
    );
    let host = |text: &str| {
        Package::parse(Runtime::Deno, text)
            .unwrap()
            .host()
            .map(Host::to_string)
    };
    assert_eq!(
        host("https://Deno.Example./x.ts"),
        Some("deno.example".to_owned())
    );
    assert_eq!(
        host("https://deno.example:8443?x"),
        Some("deno.example".to_owned())
    );
    assert_eq!(host("https://0x7f.1/x"), Some("127.0.0.1".to_owned()));
    assert_eq!(host("npm:chalk"), None);
    assert_eq!(Package::parse(Runtime::Node, "chalk").unwrap().host(), None);
}

#[test]
fn bash_takes_names_of_the_distribution() {
    good(
        Runtime::Bash,
        &[
            "jq",
            "g++",
            "libstdc++6",
            "python3.11",
            "ca-certificates",
            "py3-numpy",
            "jq=1.6-2.1",
            "bash=5.2.15-2+b2",
            "openssl=3.0.11-1~deb12u2",
            "vim=2:9.0.1378-2",
            "busybox=1.36.1-r5",
        ],
    );
    bad(
        Runtime::Bash,
        &[
            "jq-",
            "-jq",
            "jq/stable",
            "/tmp/x.deb",
            "x.deb",
            "x.apk",
            "x.apk-y",
            "jq=",
            "jq=-1",
            "jq==1",
            "jq=1=2",
            "jq>1",
            "jq~1",
            "jq@edge",
            "!jq",
            "*",
            "jq*",
            "^jq",
            "jq:amd64",
            "+jq",
            ".jq",
            "~njq",
            "?jq",
        ],
    );
}

#[test]
fn only_one_exact_version_is_pinned() {
    for (runtime, text, pinned) in [
        (Runtime::Python, "numpy", false),
        (Runtime::Python, "numpy>=2", false),
        (Runtime::Python, "numpy==2.*", false),
        (Runtime::Python, "numpy==2.1.0", true),
        (Runtime::Python, "numpy[x]==2.1.0,>=2", true),
        (Runtime::Node, "lodash", false),
        (Runtime::Node, "lodash@4", false),
        (Runtime::Node, "lodash@^4.17.21", false),
        (Runtime::Node, "lodash@latest", false),
        (Runtime::Node, "lodash@1.2.3.4", false),
        (Runtime::Node, "lodash@1.2.x", false),
        (Runtime::Node, "lodash@4.17.21", true),
        (Runtime::Node, "lodash@=4.17.21", true),
        (Runtime::Bun, "@a/b@1.2.3-rc.1", true),
        (Runtime::Bun, "a@npm:b@1.2.3", true),
        (Runtime::Bun, "a@npm:b", false),
        (Runtime::Deno, "npm:chalk@5", false),
        (Runtime::Deno, "npm:chalk@5.3.0/source", true),
        (Runtime::Deno, "jsr:@std/path@1.0.0", true),
        (Runtime::Deno, "https://h.example/x@1.0.0.ts", false),
        (Runtime::Bash, "jq", false),
        (Runtime::Bash, "jq=1.6-2.1", true),
    ] {
        assert_eq!(
            Package::parse(runtime, text).unwrap().pinned(),
            pinned,
            "{text}"
        );
    }
}

#[test]
fn errors_say_what_to_write() {
    let error = |runtime, text: &str| Package::parse(runtime, text).unwrap_err().to_string();
    assert_eq!(
        error(Runtime::Python, "--pre"),
        "`--pre` is an option, not a package"
    );
    assert_eq!(
        error(Runtime::Node, "-g"),
        "`-g` is an option, not a package"
    );
    assert_eq!(
        error(Runtime::Python, "a\u{1b};b"),
        "`a\\u{1b};b` is not a python package: it holds `\\u{1b}`"
    );
    assert_eq!(
        error(Runtime::Node, "o/r"),
        "`o/r` is not a node package: only names of a registry are taken, no paths, archives, URLs or repositories"
    );
    assert_eq!(
        error(Runtime::Deno, "chalk"),
        "`chalk` is not a deno package: only `npm:`, `jsr:` and `https:` are taken"
    );
    assert_eq!(
        error(Runtime::Bash, "jq="),
        "the version of `jq=` is not one that bash packages have; write it like `jq` or `jq=1.6-2.1`"
    );
}

#[test]
fn a_set_is_sorted_and_has_each_once() {
    let all = Package::parse_all(Runtime::Node, &["b", "a@1", "b", "a"]).unwrap();
    let texts: Vec<&str> = all.iter().map(Package::as_str).collect();
    assert_eq!(texts, ["a", "a@1", "b"]);
    assert_eq!(sorted(all.iter().rev().cloned()), all);
    assert!(Package::parse_all(Runtime::Node, &["a", "-b"]).is_err());
    let many = vec!["a"; MOST_PACKAGES + 1];
    assert!(Package::parse_all(Runtime::Node, &many[1..]).is_ok());
    assert_eq!(
        Package::parse_all(Runtime::Node, &many),
        Err(InvalidPackage::TooMany(MOST_PACKAGES + 1))
    );
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,30}",
        "[a-z@/.~^<>=!+,\\[\\]*:%?-]{0,20}",
        "(npm:|jsr:@|https://)[a-z0-9@/.:%?=^~-]{0,20}",
        "[a-z]{1,4}(\\[[a-z,]{0,4}\\])?[=<>~!]{0,2}[0-9a-z.*,+]{0,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_package_is_always_one_harmless_argument(text in texts()) {
        for runtime in Runtime::ALL {
            let Ok(package) = Package::parse(runtime, &text) else { continue };
            let text = package.as_str();
            prop_assert!(!text.is_empty() && text.len() <= LONGEST_PACKAGE);
            prop_assert!(!text.starts_with(['-', '.', '/', '~']));
            let strange = |c: char| !c.is_ascii_graphic() || ";|&$`(){}\\'\"#".contains(c);
            prop_assert!(!text.contains(strange), "{}", text);
            if !text.starts_with("https://") {
                prop_assert!(!text.contains("://"), "{}", text);
                prop_assert!(!text.split('/').any(|part| part == ".."), "{}", text);
            }
        }
    }

    /// The host that we let through is the one that deno asks.
    #[test]
    fn a_url_has_one_host(text in "https://[a-zA-Z0-9.:@%/?_-]{1,24}") {
        if let Ok(package) = Package::parse(Runtime::Deno, &text) {
            let url = url::Url::parse(&text).unwrap();
            let host = Host::parse(url.host_str().unwrap()).unwrap();
            prop_assert_eq!(package.host(), Some(&host));
            prop_assert_eq!(url.username(), "");
            prop_assert_eq!(url.scheme(), "https");
        }
    }
}
