//! What is refused, in which words.

use expect_test::{Expect, expect};

use super::{Place, planned};

#[track_caller]
fn refused(argv: &[&str], expected: &Expect) {
    let failure = planned(&Place::default(), argv).expect_err("it is wrong");
    let mut text = format!("{:?}: {}\n", failure.kind, failure.message);
    for cause in &failure.causes {
        text += &format!("cause: {cause}\n");
    }
    text += &format!("hint: {}\n", failure.hint.unwrap_or_default());
    expected.assert_eq(&text);
}

#[test]
fn what_is_typed_wrong_is_told() {
    refused(
        &["-e", "1", "x.py"],
        &expect![[r#"
        InvalidRequest: two programs at once
        cause: both `--eval` and the file `x.py` were given
        hint: leave one of them out; data for the program can come through `--stdin`
    "#]],
    );
    refused(
        &["-e", "1", "-r", "ruby"],
        &expect![[r#"
        InvalidRequest: `ruby` is not a runtime; choose python, node, bun, deno or bash
        hint: write it like `--runtime node`
    "#]],
    );
    refused(
        &["data.csv"],
        &expect![[r#"
        InvalidRequest: cannot tell which runtime `data.csv` is for
        cause: no runtime claims the extension `.csv`
        hint: say it with `--runtime python|node|bun|deno|bash`
    "#]],
    );
    refused(
        &["Makefile"],
        &expect![[r#"
        InvalidRequest: cannot tell which runtime `Makefile` is for
        cause: its name has no extension
        hint: say it with `--runtime python|node|bun|deno|bash`
    "#]],
    );
    refused(
        &["/nowhere/a.py"],
        &expect![[r#"
        InvalidRequest: cannot read `/nowhere/a.py`
        cause: No such file or directory (os error 2)
        hint: check the path; inline code goes with `-e`
    "#]],
    );
    refused(
        &["/tmp"],
        &expect![[r#"
        InvalidRequest: `/tmp` is a directory
        hint: name the program's file
    "#]],
    );
    refused(
        &["-r", "bash", "/tmp"],
        &expect![[r#"
        InvalidRequest: `/tmp` is a directory
        hint: name the program's file
    "#]],
    );
    refused(
        &["-e", "1", "--net", "open"],
        &expect![[r#"
        InvalidRequest: `open` is not a network mode
        hint: choose `--net none`, `host` or `filtered`
    "#]],
    );
    refused(
        &["-e", "1", "--engine", "podman"],
        &expect![[r#"
        InvalidRequest: `podman` is not an engine
        hint: choose `--engine auto`, `docker` or `native`
    "#]],
    );
    refused(
        &["-e", "1", "--image=-v/:/x"],
        &expect![[r#"
        InvalidRequest: `-v/:/x` is not an image name
        hint: write it like `--image python:3.13-slim`
    "#]],
    );
    refused(
        &["-e", "1", "-i", "--stdin", "x"],
        &expect![[r#"
        InvalidRequest: `--stdin` and `--interactive` are two sources for one stdin
        hint: leave one of them out
    "#]],
    );
    refused(
        &["-i"],
        &expect![[r#"
        InvalidRequest: `--interactive` cannot stream stdin: the program itself is read from it
        hint: give the program as a file or with `-e`
    "#]],
    );
}

#[test]
fn wrong_quantities_are_told() {
    refused(
        &["-e", "1", "--memory", "1m"],
        &expect![[r#"
        InvalidRequest: wrong value for `--memory`
        cause: the least is 6m
        hint: write it like `--memory 512m`
    "#]],
    );
    refused(
        &["-e", "1", "--timeout", "0"],
        &expect![[r#"
            InvalidRequest: wrong value for `--timeout`
            cause: `0` is not a number of milliseconds between 1 and 2592000000
            hint: write it like `--timeout 10000`
        "#]],
    );
    refused(
        &["-e", "1", "--timeout", "-5"],
        &expect![[r#"
            InvalidRequest: wrong value for `--timeout`
            cause: `-5` is not a number of milliseconds between 1 and 2592000000
            hint: write it like `--timeout 10000`
        "#]],
    );
    refused(
        &["-e", "1", "--timeout", "10s"],
        &expect![[r#"
            InvalidRequest: wrong value for `--timeout`
            cause: `10s` is not a number of milliseconds between 1 and 2592000000
            hint: write it like `--timeout 10000`
        "#]],
    );
    refused(
        &["-e", "1", "--memory", "lots"],
        &expect![[r#"
            InvalidRequest: wrong value for `--memory`
            cause: `lots` is not a size; write it like `512m` or `2g`
            hint: write it like `--memory 512m`
        "#]],
    );
    refused(
        &["-e", "1", "--memory", "0"],
        &expect![[r#"
            InvalidRequest: wrong value for `--memory`
            cause: a size must be more than 0
            hint: write it like `--memory 512m`
        "#]],
    );
    refused(
        &["-e", "1", "--cpu", "0"],
        &expect![[r#"
            InvalidRequest: wrong value for `--cpu`
            cause: `0` is not a number of cores between 0.01 and 1024; write it like `1` or `0.5`
            hint: write it like `--cpu 0.5`
        "#]],
    );
    refused(
        &["-e", "1", "--pids-limit", "0"],
        &expect![[r#"
        InvalidRequest: wrong value for `--pids-limit`
        cause: `0` is not a count between 1 and 32768
        hint: write it like `--pids-limit 128`
    "#]],
    );
    refused(
        &["-e", "1", "--pids-limit", "1.5"],
        &expect![[r#"
        InvalidRequest: wrong value for `--pids-limit`
        cause: `1.5` is not a count between 1 and 32768
        hint: write it like `--pids-limit 128`
    "#]],
    );
    refused(
        &["-e", "1", "--sandbox-size", "-1"],
        &expect![[r#"
            InvalidRequest: wrong value for `--sandbox-size`
            cause: `-1` is not a size; write it like `512m` or `2g`
            hint: write it like `--sandbox-size 512m`
        "#]],
    );
    refused(
        &["-e", "1", "--tmp-size", ""],
        &expect![[r#"
            InvalidRequest: wrong value for `--tmp-size`
            cause: `` is not a size; write it like `512m` or `2g`
            hint: write it like `--tmp-size 512m`
        "#]],
    );
    refused(
        &["-e", "1", "--max-output", "0"],
        &expect![[r#"
            InvalidRequest: wrong value for `--max-output`
            cause: a size must be more than 0
            hint: write it like `--max-output 512m`
        "#]],
    );
}

#[test]
fn wrong_patterns_are_shown() {
    let filtered = |argv: &[&str], expected| {
        let argv: Vec<&str> = ["-e", "1", "--net=filtered"]
            .iter()
            .chain(argv)
            .copied()
            .collect();
        refused(&argv, expected);
    };
    filtered(
        &["--allow", "a["],
        &expect![[r#"
        InvalidRequest: wrong pattern for `--allow`
        cause: unclosed character class
            a[
             ^
        hint: a host is written like `--allow '^api\.example\.com$'`
    "#]],
    );
    filtered(
        &["--deny", "ok", "--deny", "(x"],
        &expect![[r#"
        InvalidRequest: wrong pattern for `--deny`, number 2
        cause: unclosed group
            (x
            ^
        hint: a host is written like `--deny '^api\.example\.com$'`
    "#]],
    );
    filtered(
        &["--allow", ""],
        &expect![[r#"
        InvalidRequest: wrong pattern for `--allow`
        cause: a pattern must not be empty
        hint: a host is written like `--allow '^api\.example\.com$'`
    "#]],
    );
    filtered(
        &["--allow", "münchen"],
        &expect![[r#"
        InvalidRequest: wrong pattern for `--allow`
        cause: hosts are matched in their ASCII form (`xn--…`), which has no `ü`
            münchen
             ^
        hint: a host is written like `--allow '^api\.example\.com$'`
    "#]],
    );
    filtered(
        &["--deny", "((a{999}){999}){999}"],
        &expect![[r#"
        InvalidRequest: wrong pattern for `--deny`
        cause: the pattern is too large once it is compiled; use fewer or smaller repetitions
        hint: a host is written like `--deny '^api\.example\.com$'`
    "#]],
    );
    filtered(
        &["--allow=x"; 1001],
        &expect![[r#"
            InvalidRequest: there are 1001 patterns; at most 1000 are taken
            hint: several hosts fit into one pattern: `^(api|files)\.example\.com$`
        "#]],
    );
    refused(
        &["-e", "1", "--install", "a", "--allow", "["],
        &expect![[r#"
        InvalidRequest: wrong pattern for `--allow`
        cause: unclosed character class
            [
            ^
        hint: a host is written like `--allow '^api\.example\.com$'`
    "#]],
    );
    // A list of the configuration that no host can match.
    let mut place = Place {
        given: &["network.blacklist"],
        ..Place::default()
    };
    place.config.network.blacklist = vec!["é".parse().expect("a pattern")];
    let failure = planned(&place, &["-e", "1", "--net=filtered"]).expect_err("it is wrong");
    assert_eq!(failure.message, "wrong pattern for `network.blacklist`");
    assert!(planned(&place, &["-e", "1"]).is_ok());
}

#[test]
fn flags_of_the_filtered_network_need_it() {
    refused(
        &["-e", "1", "--deny", "x"],
        &expect![[r#"
        InvalidRequest: `--deny` does nothing without a filtered network
        hint: add `--net filtered`
    "#]],
    );
    refused(
        &["-e", "1", "--net=host", "--allow", "x"],
        &expect![[r#"
        InvalidRequest: `--allow` does nothing without a filtered network
        hint: add `--net filtered`
    "#]],
    );
    refused(
        &["-e", "1", "--log-network"],
        &expect![[r#"
        InvalidRequest: `--log-network` does nothing without a filtered network
        hint: add `--net filtered`
    "#]],
    );
    refused(
        &["-e", "1", "--install=a", "--net=none", "--log-network"],
        &expect![[r#"
            InvalidRequest: `--log-network` does nothing without a filtered network
            hint: add `--net filtered`
        "#]],
    );
    refused(
        &["-e", "1", "--no-install-cache"],
        &expect![[r#"
        InvalidRequest: `--no-install-cache` does nothing without packages
        hint: name them with `--install`, or leave it out
    "#]],
    );
}

#[test]
fn what_is_no_package_is_told() {
    refused(
        &["-e", "1", "--install", "--index=x"],
        &expect![[r#"
        InvalidRequest: `--index=x` is an option, not a package
        hint: write it like `--install 'numpy>=2'`
    "#]],
    );
    refused(
        &["-e", "1", "--install", "a;b"],
        &expect![[r#"
        InvalidRequest: `a;b` is not a python package: it holds `;`
        hint: write it like `--install 'numpy>=2'`
    "#]],
    );
    refused(
        &["-e", "1", "--install", "numpy,rich"],
        &expect![[r#"
        InvalidRequest: `numpy,rich` is not a python package; write it like `numpy`, `requests[socks]` or `numpy>=2,<3`
        hint: give each package an `--install` of its own
    "#]],
    );
    refused(
        &["-e", "1", "--install", "numpy rich"],
        &expect![[r#"
        InvalidRequest: `numpy rich` is not a python package: it holds ` `
        hint: give each package an `--install` of its own
    "#]],
    );
    refused(
        &["-e", "1", "-r", "node", "--install", "../x"],
        &expect![[r#"
            InvalidRequest: `../x` is not a node package: only names of a registry are taken, no paths, archives, URLs or repositories
            hint: write it like `--install lodash@4`
        "#]],
    );
    refused(
        &["-e", "1", "-r", "deno", "--install", "x"],
        &expect![[r#"
        InvalidRequest: `x` is not a deno package: only `npm:`, `jsr:` and `https:` are taken
        hint: write it like `--install npm:chalk@5`
    "#]],
    );
    refused(
        &["-e", "1", "-r", "bash", "--install", ""],
        &expect![[r#"
        InvalidRequest: a package must not be empty
        hint: write it like `--install jq`
    "#]],
    );
    let many: Vec<String> = (0..101).map(|n| format!("--install=p{n}")).collect();
    let many: Vec<&str> = ["-e", "1"]
        .into_iter()
        .chain(many.iter().map(String::as_str))
        .collect();
    refused(
        &many,
        &expect![[r#"
        InvalidRequest: there are 101 packages; one run has at most 100
        hint: give an image that has them already with `--image`
    "#]],
    );
}

#[test]
fn a_session_has_a_name() {
    refused(
        &["-e", "1", "--session", "../x"],
        &expect![[r#"
        InvalidRequest: `../x` is not a session name
        cause: a name has 1 to 64 letters, digits and `._-`, a letter or digit first
        hint: write it like `--session work`
    "#]],
    );
}

#[test]
fn a_server_has_an_address_and_a_key() {
    refused(
        &["-e", "1", "--host", "http://h:3000"],
        &expect![[r#"
        InvalidRequest: API key required
        hint: give it with `--key <key>`, or set ISOL8_API_KEY
    "#]],
    );
    refused(
        &["-e", "1", "--host", "http://h:3000", "--key", ""],
        &expect![[r#"
        InvalidRequest: API key required
        hint: give it with `--key <key>`, or set ISOL8_API_KEY
    "#]],
    );
    refused(
        &[
            "-e",
            "1",
            "--host",
            "http://h:3000",
            "--key",
            "my-secret\nkey\n",
        ],
        &expect![[r#"
            InvalidRequest: this is no API key: one has letters, digits and signs, and no line's end
            hint: look at what `--key` or ISOL8_API_KEY really holds
        "#]],
    );
    refused(
        &["-e", "1", "--host", "h:3000", "--key", "k"],
        &expect![[r#"
            InvalidRequest: `h:3000` is not the address of a server
            hint: write it like `--host https://isol8.example.com:3000`
        "#]],
    );
    refused(
        &[
            "-e",
            "1",
            "--host",
            "https://user:pass@h:3000/?key=secret",
            "--key",
            "k",
        ],
        &expect![[r#"
            InvalidRequest: `h:3000/` is not the address of a server
            hint: write it like `--host https://isol8.example.com:3000`
        "#]],
    );
    refused(
        &["-e", "1", "--key", "k"],
        &expect![[r#"
        InvalidRequest: `--key` does nothing without `--host`
        hint: add `--host https://…`, or leave the key out
    "#]],
    );
}
