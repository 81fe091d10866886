//! What is typed wrong: exit code 2, what, why and a hint, and nothing done.

use std::{fs, os::unix::ffi::OsStrExt as _};

use expect_test::{Expect, expect};

use crate::{
    cli::{command, finish, isol8, spawn},
    fake::{Fake, Run},
};

/// A daemon that must not hear of it.
fn untouched() -> Fake {
    Fake::new(|run: Run| async move {
        run.note("a run was started");
        run.simple(0).await;
    })
}

#[track_caller]
fn check(args: &[&str], expected: &Expect) {
    let fake = untouched();
    let done = isol8(&fake, args);
    assert_eq!(done.text(), "", "stdout belongs to the program");
    assert_eq!(fake.seen(), Vec::<String>::new());
    expected.assert_eq(&done.told());
}

#[test]
fn values_are_checked_before_anything_is_done() {
    check(
        &["run", "-e", "1", "--timeout", "0"],
        &expect![[r#"
            2
            error: wrong value for `--timeout`
            cause: `0` is not a number of milliseconds between 1 and 2592000000
            hint: write it like `--timeout 10000`
        "#]],
    );
    check(
        &["run", "-e", "1", "--runtime", "ruby"],
        &expect![[r#"
        2
        error: `ruby` is not a runtime; choose python, node, bun, deno or bash
        hint: write it like `--runtime node`
    "#]],
    );
    check(
        &["run", "-e", "1", "x.py"],
        &expect![[r#"
        2
        error: two programs at once
        cause: both `--eval` and the file `x.py` were given
        hint: leave one of them out; data for the program can come through `--stdin`
    "#]],
    );
    check(
        &["run", "data.csv"],
        &expect![[r#"
        2
        error: cannot tell which runtime `data.csv` is for
        cause: no runtime claims the extension `.csv`
        hint: say it with `--runtime python|node|bun|deno|bash`
    "#]],
    );
    check(
        &["run", "missing.py"],
        &expect![[r#"
        2
        error: cannot read `missing.py`
        cause: No such file or directory (os error 2)
        hint: check the path; inline code goes with `-e`
    "#]],
    );
    check(
        &["run", "-e", "1", "--net", "x"],
        &expect![[r#"
        2
        error: `x` is not a network mode
        hint: choose `--net none`, `host` or `filtered`
    "#]],
    );
    check(
        &["run", "-e", "1", "--install", "a", "--allow", "a("],
        &expect![[r#"
            2
            error: wrong pattern for `--allow`
            cause: unclosed group
                  a(
                   ^
            hint: a host is written like `--allow '^api\.example\.com$'`
        "#]],
    );
}

#[test]
fn what_clap_refuses_is_a_usage_error_too() {
    check(
        &["run", "--nosuch"],
        &expect![[r#"
        2
        error: unexpected argument '--nosuch' found

          tip: to pass '--nosuch' as a value, use '-- --nosuch'

        Usage: isol8 run [OPTIONS] [FILE]

        For more information, try '--help'.
    "#]],
    );
    check(
        &["run", "-e"],
        &expect![[r#"
        2
        error: a value is required for '--eval <CODE>' but none was supplied

        For more information, try '--help'.
    "#]],
    );
    check(
        &["run", "a.py", "b.py"],
        &expect![[r#"
        2
        error: unexpected argument 'b.py' found

        Usage: isol8 run [OPTIONS] [FILE]

        For more information, try '--help'.
    "#]],
    );
    check(
        &["run", "-e", "1", "--timeout", "1", "--timeout", "2"],
        &expect![[r#"
            2
            error: the argument '--timeout <MS>' cannot be used multiple times

            Usage: isol8 run [OPTIONS] [FILE]

            For more information, try '--help'.
        "#]],
    );
    check(
        &["nosuch"],
        &expect![[r#"
        2
        error: unrecognized subcommand 'nosuch'

        Usage: isol8 [OPTIONS] <COMMAND>

        For more information, try '--help'.
    "#]],
    );
    check(
        &["completions", "tcsh"],
        &expect![[r#"
        2
        error: invalid value 'tcsh' for '<SHELL>'
          [possible values: bash, elvish, fish, powershell, zsh]

          tip: a similar value exists: 'zsh'

        For more information, try '--help'.
    "#]],
    );
}

#[test]
fn packages_of_images_are_checked_first() {
    check(
        &["setup", "--python", "numpy,-r"],
        &expect![[r#"
            2
            error: `-r` is an option, not a package
            hint: write it like `--python 'numpy>=2'`
        "#]],
    );
    check(
        &["build", "--base", "python", "--install", "numpy;id"],
        &expect![[r#"
            2
            error: `numpy;id` is not a python package: it holds `;`
            hint: write it like `--install 'numpy>=2'`
        "#]],
    );
    check(
        &["build", "--base", "perl", "--install", "numpy"],
        &expect![[r#"
            2
            error: `perl` is not a runtime; choose python, node, bun, deno or bash
            hint: write it like `isol8 build --base python --install numpy`
        "#]],
    );
}

#[test]
fn files_that_cannot_be_programs_are_named() {
    let fake = untouched();
    fs::create_dir(fake.path("folder.py")).expect("room");
    let done = isol8(&fake, &["run", "folder.py"]);
    expect![[r#"
        2
        error: `folder.py` is a directory
        hint: name the program's file
    "#]]
    .assert_eq(&done.told());
    // Root reads everything, so that only a file of the kernel is unreadable.
    let done = isol8(&fake, &["run", "-r", "bash", "/proc/self/mem"]);
    expect![[r#"
        2
        error: cannot read `/proc/self/mem`
        cause: Input/output error (os error 5)
    "#]]
    .assert_eq(&done.told());
    assert_eq!(fake.seen(), Vec::<String>::new());
}

#[test]
fn invalid_utf8_in_argv_is_told_without_the_value() {
    let fake = untouched();
    let mut command = command(fake.folder.path(), &["run", "--secret"]);
    command.arg(std::ffi::OsStr::from_bytes(b"KEY=hunter2\xff"));
    let done = finish(spawn(command));
    expect![[r#"
        2
        error: argument 3 is not valid UTF-8
        cause: it follows `--secret`
        hint: put the program in a file: `isol8 run program.py`; data can come through stdin
    "#]]
    .assert_eq(&done.told());
}

#[test]
fn a_files_name_need_not_be_utf8() {
    let fake = Fake::new(|run: Run| async move {
        run.note(format!("{:?}", run.start.code));
        run.simple(0).await;
    });
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.py");
    fs::write(fake.folder.path().join(name), "1").expect("room");
    let mut command = command(fake.folder.path(), &["run"]);
    command.arg(name);
    assert_eq!(finish(spawn(command)).told(), "0\n");
    assert_eq!(fake.seen(), [r#"b"1""#]);
}

#[test]
fn a_wrong_configuration_names_key_file_and_line() {
    let fake = untouched();
    let file = fake.path("c.json");
    fs::write(&file, "{\n  \"maxConcurrent\": \"many\"\n}").expect("room");
    let mut command = command(fake.folder.path(), &["run", "-e", "1"]);
    command.env("ISOL8_CONFIG", &file);
    let done = finish(spawn(command));
    assert_eq!(done.code, 2);
    let place = format!("{}:2", file.display());
    assert!(done.stderr.contains(&place), "{}", done.stderr);
    assert!(done.stderr.contains("maxConcurrent"), "{}", done.stderr);
    assert_eq!(fake.seen(), Vec::<String>::new());
}

#[test]
fn the_working_directory_cannot_weaken_isolation() {
    let fake = untouched();
    let text = r#"{"security": {"seccomp": "unconfined"}}"#;
    fs::write(fake.path("isol8.config.json"), text).expect("room");
    let done = isol8(&fake, &["run", "-e", "1"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("`security"), "{}", done.stderr);
    assert_eq!(fake.seen(), Vec::<String>::new());
}

#[test]
fn help_and_version_are_answers() {
    let fake = untouched();
    let help = isol8(&fake, &["run", "--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for flag in ["--eval", "--secret", "--max-output", "--engine", "--debug"] {
        assert!(help.text().contains(flag), "{flag}");
    }
    let version = isol8(&fake, &["--version"]);
    assert_eq!(
        version.text(),
        format!("isol8 {}\n", env!("CARGO_PKG_VERSION"))
    );
    let none = isol8(&fake, &[]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("Usage:"), "{}", none.stderr);
}
