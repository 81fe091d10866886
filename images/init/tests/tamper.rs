//! What a program can do to PID 1: nothing.

use std::time::Duration;

use isol8_proto::init::{Exec, exited::How, from_init};

use crate::rig::{Rig, bash, plain};

#[test]
fn no_signal_from_inside_ends_or_stops_init() {
    let mut rig = Rig::start();
    let outcome = rig.bash("for n in $(seq 64); do kill -$n 1 2>/dev/null; done; kill -9 1; kill -STOP 1; kill -TERM 1; echo sent");
    assert!(outcome.stdout.ends_with("sent\n"), "{outcome:?}");
    let state = rig.bash("grep State /proc/1/status").stdout;
    assert!(
        ["State:\tS (sleeping)\n", "State:\tR (running)\n"].contains(&&*state),
        "{state}"
    );
}

#[test]
fn a_flood_of_signals_does_not_hold_init_up() {
    let mut rig = Rig::start();
    let outcome = rig.bash(
        "(timeout 0.5 bash -c 'while :; do kill -CHLD 1; kill -SEGV 1; kill -WINCH 1; done') & \
         for i in $(seq 50); do /bin/true; done; wait; echo done",
    );
    assert_eq!(outcome.stdout, "done\n");
}

#[test]
fn a_forged_fault_does_not_end_init() {
    let mut rig = Rig::start();
    // rt_sigqueueinfo(1, SIGSEGV, info) with every address that a stack's guard
    // page could have is not feasible; that there is no handler at all, is.
    let outcome = rig.bash("grep -E '^Sig(Cgt|Ign)' /proc/1/status");
    assert_eq!(
        outcome.stdout,
        "SigIgn:\t0000000001001000\nSigCgt:\t0000000000000000\n"
    );
}

#[test]
fn init_is_not_readable() {
    let mut rig = Rig::start();
    let outcome = rig.bash(
        "for f in environ mem maps fd/0 fd/3 cwd root exe auxv stack syscall; do \
           if cat /proc/1/$f >/dev/null 2>&1; then echo read $f; fi; \
         done; ls /proc/1/fd 2>&1 | grep -v denied; echo x 2>/dev/null > /proc/1/fd/1; \
         echo x 2>/dev/null > /proc/1/oom_score_adj; echo x 2>/dev/null > /proc/1/mem; echo tried",
    );
    assert_eq!(outcome.stdout, "tried\n");
}

#[test]
fn init_cannot_be_traced_or_robbed_of_descriptors() {
    let script = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
wide = lambda arg: ctypes.c_long(arg) if isinstance(arg, int) else arg
def refused(name, *args):
    ctypes.set_errno(0)
    result = libc.syscall(*map(wide, args))
    print(name, result == -1 and ctypes.get_errno() in (1, 13, 38))
refused('ptrace attach', 101, 16, 1, 0, 0)
refused('ptrace seize', 101, 0x4206, 1, 0, 0)
buffer = ctypes.create_string_buffer(8)
class Vec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
mine = Vec(ctypes.addressof(buffer), 8)
theirs = Vec(0x400000, 8)
refused('process_vm_readv', 310, 1, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
pidfd = os.pidfd_open(1)
for fd in range(0, 8):
    refused('pidfd_getfd', 438, pidfd, fd, 0)
";
    let mut rig = Rig::start();
    rig.put("t.py", script.as_bytes()).expect("written");
    let outcome = rig.bash("/usr/bin/python3 t.py");
    assert!(outcome.stdout.lines().count() >= 11, "{outcome:?}");
    assert!(
        outcome.stdout.lines().all(|line| line.ends_with("True")),
        "{outcome:?}"
    );
}

#[test]
fn a_program_that_steals_its_own_output_does_not_hold_the_end() {
    let mut rig = Rig::start();
    // When the main process has gone and the daemon has not yet taken its
    // output, a child takes it.
    let thief = "import os, time
os.write(1, b'x' * 50_000)
if os.fork():
    os._exit(4)
while os.getppid() != 1:
    time.sleep(0.001)
pipe = os.open('/proc/self/fd/1', os.O_RDONLY)
time.sleep(0.1)
os.read(pipe, 60_000)
os.write(2, b'stolen')
time.sleep(60)
";
    rig.put("thief.py", thief.as_bytes()).expect("written");
    let exec = Exec {
        stdout_credit: 10,
        ..plain(bash("exec /usr/bin/python3 thief.py"))
    };
    rig.exec(exec).expect("started");
    let seen = rig.recv();
    assert!(
        matches!(&seen, from_init::Message::Stdout(bytes) if bytes.len() == 10),
        "{seen:?}"
    );
    std::thread::sleep(Duration::from_millis(500));
    rig.credit(1 << 20, 1 << 20);
    let (mut stdout, mut stderr) = (vec![], vec![]);
    let exited = rig.drain(&mut stdout, &mut stderr);
    assert_eq!((exited.how, stdout.len()), (Some(How::Code(4)), 0));
}
