//! Many runs, some of them hostile: nothing accumulates.

use std::{thread, time::Instant};

use isol8_e2e::harness::{
    host::Process,
    wait::{seconds, wait_until},
};

/// What one process of the daemon holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    resident_bytes: u64,
    descriptors: usize,
    threads: usize,
}

fn held(daemon: &Process) -> Held {
    Held {
        resident_bytes: daemon.resident_bytes(),
        descriptors: daemon.descriptors(),
        threads: daemon.status("Threads").parse().expect("a number"),
    }
}

both_engines! {
    /// F29 in short: descriptors, threads and memory of the daemon stay as they
    /// were, and so do mounts of the host.
    fn nothing_accumulates(stage: &Stage) {
        let (rounds, lanes) = match stage.engine() {
            Engine::Docker => (6, 4),
            Engine::Native => (24, 5),
        };
        let round = |number: usize| {
            thread::scope(|scope| {
                for lane in 0..lanes {
                    scope.spawn(move || {
                        let (code, args): (&str, &[&str]) = match (number * lanes + lane) % 10 {
                            3 => (":(){ :|:& };:\nsleep 9", &["--timeout", "400"]),
                            5 => ("yes", &["--timeout", "300"]),
                            7 => ("x=$(head -c 200m /dev/zero | tr '\\0' x)", &["--memory", "48m"]),
                            9 => ("sleep 9 & sleep 9 & exit 3", &[]),
                            _ => ("echo fine", &[]),
                        };
                        let ran = stage.bash(code).args(args).go();
                        match code {
                            "echo fine" => assert_eq!(ran.ok(), "fine\n"),
                            "sleep 9 & sleep 9 & exit 3" => drop(ran.ended(3).err()),
                            _ => assert_ne!(ran.code(), 125, "{ran:?}"),
                        }
                    });
                }
            });
        };
        // The first rounds fill caches and start threads.
        round(0);
        round(1);
        let daemon = stage.daemon_process();
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("it is there")
            .matches(stage.folder().to_str().expect("text")).count();
        let (before, mounted) = (held(&daemon), mounts());
        let begun = Instant::now();
        for number in 2..rounds {
            round(number);
        }
        let mut after = held(&daemon);
        // What is warm at this moment holds some descriptors each.
        wait_until("few descriptors", seconds(15), || {
            after = held(&daemon);
            after.descriptors <= before.descriptors + 24
        });
        let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
        assert!(grown < 16 << 20, "{before:?} to {after:?} in {:?}", begun.elapsed());
        assert!(after.threads <= before.threads + 24, "{before:?} to {after:?}");
        assert!(mounts() <= mounted + 2, "mounts of the host");
    }
}
