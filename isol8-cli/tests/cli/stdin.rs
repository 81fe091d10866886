//! Where the program's standard input comes from.

use std::fs;

use crate::{
    cli::{command, finish, isol8, isol8_with_stdin, spawn},
    fake::{Fake, Run},
};

/// Answers with what came on stdin.
fn cat() -> Fake {
    Fake::new(|mut run: Run| async move {
        run.accept().await;
        run.note(format!("stdin {}", run.start.stdin));
        if run.start.stdin {
            let data = run.stdin().await;
            run.stdout(data).await;
        }
        run.code(0).await;
    })
}

#[test]
fn a_pipe_is_streamed_through() {
    let fake = cat();
    let data: Vec<u8> = (0..=255).cycle().take(5_000_000).collect();
    let done = isol8_with_stdin(&fake, &["run", "-e", "1"], &data);
    assert_eq!(done.told(), "0\n");
    assert!(done.stdout == data, "{} bytes", done.stdout.len());
}

#[test]
fn a_file_is_streamed_through() {
    let fake = cat();
    fs::write(fake.path("data"), "lines\n").expect("room");
    let mut command = command(fake.folder.path(), &["run", "-e", "1"]);
    command.stdin(fs::File::open(fake.path("data")).expect("it is there"));
    let done = finish(spawn(command));
    assert_eq!((done.told().as_str(), done.text()), ("0\n", "lines\n"));
}

#[test]
fn nothing_is_nothing() {
    let fake = cat();
    assert_eq!(isol8(&fake, &["run", "-e", "1"]).told(), "0\n");
    assert_eq!(fake.seen(), ["stdin false"]);
}

#[test]
fn interactive_streams_whatever_there_is() {
    let fake = cat();
    assert_eq!(isol8(&fake, &["run", "-i", "-e", "1"]).told(), "0\n");
    assert_eq!(fake.seen(), ["stdin true"]);
}

#[test]
fn data_of_the_command_line_beats_the_pipe() {
    let fake = cat();
    let args = ["run", "-e", "1", "--stdin", "typed"];
    let done = isol8_with_stdin(&fake, &args, b"piped");
    assert_eq!((done.told().as_str(), done.text()), ("0\n", "typed"));
}

#[test]
fn without_a_source_stdin_is_the_program() {
    let fake = Fake::new(|run: Run| async move {
        run.note(format!("{:?} stdin {}", run.start.code, run.start.stdin));
        run.simple(0).await;
    });
    let done = isol8_with_stdin(&fake, &["run"], b"print(1)");
    assert_eq!(done.told(), "0\n");
    assert_eq!(fake.seen(), [r#"b"print(1)" stdin false"#]);
}

#[test]
fn a_program_that_does_not_read_ends_all_the_same() {
    let fake = Fake::new(|run: Run| run.simple(0));
    let data = vec![b'x'; 32 << 20];
    let done = isol8_with_stdin(&fake, &["run", "-e", "1"], &data);
    assert_eq!(done.told(), "0\n");
}

#[test]
fn a_terminal_is_the_end_of_input_unless_asked_for() {
    let fake = cat();
    let isol8 = env!("CARGO_BIN_EXE_isol8");
    // `script` runs its command on a terminal of its own.
    for (flag, seen) in [("", "stdin false"), ("-i", "stdin true")] {
        let line = format!("{isol8} run {flag} -e 1");
        let mut command =
            crate::cli::program("script", fake.folder.path(), &["-qec", &line, "/dev/null"]);
        command.stdin(std::process::Stdio::null());
        let done = finish(spawn(command));
        assert_eq!(done.code, 0, "{}", done.text());
        fake.await_note(seen);
    }
}
