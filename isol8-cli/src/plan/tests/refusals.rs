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
fn what_is_not_there_yet_is_checked_and_then_refused() {
    refused(
        &["-e", "1", "--net", "filtered"],
        &expect![[r#"
        NotYet: `--net filtered` is not there yet
        hint: leave it out; a later version brings it
    "#]],
    );
    refused(
        &["-e", "1", "--install", "numpy>=2"],
        &expect![[r#"
        NotYet: `--install` is not there yet
        hint: leave it out; a later version brings it
    "#]],
    );
    refused(
        &["-e", "1", "--install", "--index=x"],
        &expect![[r#"
        InvalidRequest: `--index=x` is not a package name
        hint: write it like `--install numpy` or `--install 'numpy>=2'`
    "#]],
    );
    refused(
        &["-e", "1", "--install", "a;b"],
        &expect![[r#"
        InvalidRequest: `a;b` is not a package name
        hint: write it like `--install numpy` or `--install 'numpy>=2'`
    "#]],
    );
    refused(
        &["-e", "1", "--install", "a", "--allow", "["],
        &expect![[r#"
            InvalidRequest: `--allow` with an invalid regular expression
            cause: regex parse error:
                [
                ^
            error: unclosed character class
            hint: a host is written like `--allow '^api\.example\.com$'`
        "#]],
    );
    refused(
        &["-e", "1", "--deny", "x"],
        &expect![[r#"
        InvalidRequest: `--deny` does nothing without a filtered network
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
        &["-e", "1", "--persistent"],
        &expect![[r#"
        NotYet: `--persistent` is not there yet
        hint: leave it out; a later version brings it
    "#]],
    );
    refused(
        &["-e", "1", "--session", "work"],
        &expect![[r#"
        NotYet: `--session` is not there yet
        hint: leave it out; a later version brings it
    "#]],
    );
    refused(
        &["-e", "1", "--session", "../x"],
        &expect![[r#"
        InvalidRequest: `../x` is not a session name
        cause: a name has up to 64 letters, digits, `.`, `_` or `-`
        hint: write it like `--session work`
    "#]],
    );
    refused(
        &["-e", "1", "--persist"],
        &expect![[r#"
        NotYet: `--persist` is not there yet
        hint: leave it out; a later version brings it
    "#]],
    );
    refused(
        &["-e", "1", "--host", "http://h:3000"],
        &expect![[r#"
        InvalidRequest: API key required
        hint: give it with `--key <key>`, or set ISOL8_API_KEY
    "#]],
    );
    refused(
        &["-e", "1", "--host", "http://h:3000", "--key", "k"],
        &expect![[r#"
            NotYet: `--host` is not there yet
            hint: leave it out; a later version brings it
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
        &["-e", "1", "--key", "k"],
        &expect![[r#"
        InvalidRequest: `--key` does nothing without `--host`
        hint: add `--host https://…`, or leave the key out
    "#]],
    );
}
