//! Ctrl-C and its kin: first for the program, then for the run.

use std::process::Child;

use rustix::process::Signal;

use crate::{
    cli::{command, finish, signal, spawn},
    fake::{Fake, Run},
};

fn running(fake: &Fake) -> Child {
    spawn(command(fake.folder.path(), &["run", "-e", "1"]))
}

#[test]
fn ctrl_c_goes_to_the_program() {
    let fake = Fake::new(|mut run: Run| async move {
        run.accept().await;
        run.stdout("ready").await;
        run.note("ready");
        let number = run.signal().await.expect("a signal");
        run.stdout(" bye").await;
        run.signalled(number).await;
    });
    let child = ready(&fake);
    signal(&child, Signal::INT);
    let done = finish(child);
    assert_eq!((done.told().as_str(), done.text()), ("130\n", "ready bye"));
    assert_eq!(fake.seen(), ["ready", "signal 2"]);
}

#[test]
fn a_program_that_handles_ctrl_c_ends_with_its_own_code() {
    let fake = Fake::new(|mut run: Run| async move {
        run.accept().await;
        run.stdout("ready").await;
        run.note("ready");
        run.signal().await;
        run.code(5).await;
    });
    let child = ready(&fake);
    signal(&child, Signal::INT);
    assert_eq!(finish(child).told(), "5\n");
}

#[test]
fn ctrl_c_overtakes_stdin_that_nobody_reads() {
    let fake = Fake::new(|mut run: Run| async move {
        run.accept().await;
        run.stdout("ready").await;
        // Reads requests as a daemon does, and takes none of the data.
        let number = run.signal().await.expect("a signal");
        run.signalled(number).await;
    });
    let mut command = command(fake.folder.path(), &["run", "-e", "1"]);
    command.stdin(std::fs::File::open("/dev/zero").expect("Linux has it"));
    let child = await_output(spawn(command));
    signal(&child, Signal::INT);
    assert_eq!(finish(child).told(), "130\n");
}

#[test]
fn the_second_ctrl_c_cancels_the_run() {
    let fake = deaf();
    let child = ready(&fake);
    signal(&child, Signal::INT);
    fake.await_note("signal 2");
    signal(&child, Signal::INT);
    assert_eq!(finish(child).told(), "130\n");
    fake.await_note("gone");
}

#[test]
fn sigterm_is_passed_on_and_then_cancels() {
    let fake = deaf();
    let child = ready(&fake);
    signal(&child, Signal::TERM);
    fake.await_note("signal 15");
    // The grace of five seconds ends it; nobody sends a second signal.
    assert_eq!(finish(child).told(), "143\n");
    fake.await_note("gone");
}

#[test]
fn a_hang_up_is_a_sigterm_for_the_program() {
    let fake = deaf();
    let child = ready(&fake);
    signal(&child, Signal::HUP);
    fake.await_note("signal 15");
    signal(&child, Signal::HUP);
    assert_eq!(finish(child).told(), "129\n");
}

#[test]
fn a_run_that_waits_is_cancelled_at_once() {
    let fake = Fake::new(|run: Run| async move {
        run.note("waiting");
        run.gone().await;
    });
    let child = running(&fake);
    fake.await_note("waiting");
    signal(&child, Signal::INT);
    let code = finish(child).code;
    // The signal may come before it is listened for; then it kills us as it
    // would kill anybody, and the shell shows the same code.
    assert!(code == 130 || code == -1, "{code}");
    fake.await_note("gone");
}

#[test]
fn a_killed_command_line_cancels_the_run() {
    let fake = deaf();
    let child = ready(&fake);
    signal(&child, Signal::KILL);
    finish(child);
    fake.await_note("gone");
}

/// A program that hears every signal and ends of none.
fn deaf() -> Fake {
    Fake::new(|mut run: Run| async move {
        run.accept().await;
        run.stdout("ready").await;
        run.note("ready");
        while run.signal().await.is_some() {}
    })
}

/// Waits until the program's first output is here: then signals are listened for.
fn ready(fake: &Fake) -> Child {
    await_output(running(fake))
}

fn await_output(child: Child) -> Child {
    use std::os::fd::AsFd as _;
    let stdout = child.stdout.as_ref().expect("it is piped");
    let mut polled = [rustix::event::PollFd::from_borrowed_fd(
        stdout.as_fd(),
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::event::Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let ready = rustix::event::poll(&mut polled, Some(&patience)).expect("a pipe");
    assert_eq!(ready, 1, "the program wrote nothing");
    child
}
