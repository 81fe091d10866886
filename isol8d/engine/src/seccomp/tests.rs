use libc::{
    AF_ALG, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, SOCK_CLOEXEC, SOCK_DGRAM,
    SOCK_NONBLOCK, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, c_long, sock_filter,
};

use super::{
    PROFILE, bpf,
    compile::{self, ARCH, Verdict, X32_BIT},
    interpreter::{Call, run},
    numbers::{Number, number},
    profile::{Profile, ProfileError},
};

const ALLOW: Verdict = Verdict::Allow;
const EPERM: Verdict = Verdict::Errno(1);
const ENOSYS: Verdict = Verdict::Errno(38);

/// No table of the kernel reaches this far.
const LAST_NUMBER: u32 = 1024;

fn program() -> Vec<sock_filter> {
    compile::compile(&Profile::parse(PROFILE).unwrap()).unwrap()
}

fn verdict(program: &[sock_filter], number: c_long, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let call = Call {
        number: u32::try_from(number).unwrap(),
        arch: ARCH.1,
        args: all,
    };
    run(program, &call)
}

#[track_caller]
fn check(number: c_long, args: &[u64], expected: Verdict) {
    let found = verdict(&program(), number, args);
    assert_eq!(
        found,
        expected.code(),
        "system call {number} with {args:x?}: {found:#x}"
    );
}

fn bits(value: i32) -> u64 {
    u64::try_from(value).unwrap()
}

/// The other place where the profile is read: name by name, straight from JSON.
fn named(action: &str, conditional: bool) -> Vec<String> {
    let profile: serde_json::Value = serde_json::from_str(PROFILE).unwrap();
    let rules = profile["syscalls"].as_array().unwrap();
    let wanted = rules
        .iter()
        .filter(|rule| rule["action"] == action && rule["args"].is_array() == conditional);
    wanted
        .flat_map(|rule| rule["names"].as_array().unwrap())
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

fn numbers_of(names: &[String]) -> Vec<u32> {
    let here = names.iter().filter_map(|name| match number(name) {
        Number::Here(number) => Some(number),
        Number::Elsewhere => None,
        Number::Unknown => panic!("`{name}` has no number"),
    });
    here.collect()
}

#[test]
fn every_number_gets_the_verdict_that_the_profile_names() {
    let program = program();
    let allowed = numbers_of(&named("SCMP_ACT_ALLOW", false));
    let absent = numbers_of(&named("SCMP_ACT_ERRNO", false));
    let conditional = numbers_of(&named("SCMP_ACT_ALLOW", true));
    assert!(allowed.len() > 150, "the profile was read");
    for number in 0..LAST_NUMBER {
        if conditional.contains(&number) {
            continue;
        }
        let expected = if allowed.contains(&number) {
            ALLOW
        } else if absent.contains(&number) {
            ENOSYS
        } else {
            EPERM
        };
        for args in [[0; 6], [u64::MAX; 6]] {
            let call = Call {
                number,
                arch: ARCH.1,
                args,
            };
            assert_eq!(run(&program, &call), expected.code(), "number {number}");
        }
    }
}

#[test]
fn no_number_beyond_the_tables_passes() {
    let program = program();
    for number in [LAST_NUMBER, 0x0fff_ffff, X32_BIT - 1] {
        assert_eq!(verdict(&program, number.into(), &[]), EPERM.code());
    }
}

#[test]
fn another_architecture_is_killed() {
    let program = program();
    // i386, arm, s390x, none.
    for arch in [0x4000_0003, 0x4000_0028, 0x8000_0016, 0] {
        for number in 0..LAST_NUMBER {
            let call = Call {
                number,
                arch,
                args: [0; 6],
            };
            assert_eq!(run(&program, &call), Verdict::KillProcess.code());
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_x32_table_is_killed() {
    let program = program();
    for number in (0..LAST_NUMBER).chain([0x3fff_ffff, 0xbfff_ffff]) {
        let call = Call {
            number: number | X32_BIT,
            arch: ARCH.1,
            args: [0; 6],
        };
        assert_eq!(run(&program, &call), Verdict::KillProcess.code());
    }
}

/// A second list, written by hand: what must never come into the profile.
#[test]
fn what_reaches_beyond_a_sandbox_is_denied() {
    #[rustfmt::skip]
    let forbidden = [
        libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root,
        libc::SYS_chroot, libc::SYS_fsopen, libc::SYS_fsmount, libc::SYS_fsconfig, libc::SYS_fspick,
        libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_mount_setattr,
        libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_keyctl,
        libc::SYS_add_key, libc::SYS_request_key, libc::SYS_kexec_load, libc::SYS_kexec_file_load,
        libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_acct,
        libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_reboot, libc::SYS_quotactl,
        libc::SYS_quotactl_fd, libc::SYS_ptrace, libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev, libc::SYS_pidfd_getfd, libc::SYS_kcmp,
        libc::SYS_process_madvise, libc::SYS_process_mrelease, libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at, libc::SYS_memfd_secret, libc::SYS_mq_open, libc::SYS_msgget,
        libc::SYS_semget, libc::SYS_shmget, libc::SYS_io_setup, libc::SYS_io_submit,
        libc::SYS_vmsplice, libc::SYS_fanotify_init, libc::SYS_fanotify_mark, libc::SYS_settimeofday,
        libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex, libc::SYS_sethostname,
        libc::SYS_setdomainname, libc::SYS_syslog, libc::SYS_vhangup, libc::SYS_mlock,
        libc::SYS_mlockall, libc::SYS_remap_file_pages, libc::SYS_migrate_pages,
        libc::SYS_move_pages, libc::SYS_mbind, libc::SYS_nfsservctl,
    ];
    for number in forbidden {
        check(number, &[], EPERM);
    }
    #[cfg(target_arch = "x86_64")]
    for number in [
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_modify_ldt,
        libc::SYS_uselib,
    ] {
        check(number, &[], EPERM);
    }
    for number in [
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ] {
        check(number, &[], ENOSYS);
    }
}

#[test]
fn clone_makes_processes_and_threads_but_no_namespace() {
    let thread = 0x003d_0f00;
    for flags in [bits(libc::SIGCHLD), thread, 0x4111, 0x0100_0000] {
        check(libc::SYS_clone, &[flags], ALLOW);
        for namespace in [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
        ] {
            check(libc::SYS_clone, &[flags | bits(namespace)], EPERM);
            // What the kernel cuts off must not hide what it keeps.
            let dressed = flags | bits(namespace) | 0xffff_0000_0000_0000;
            check(libc::SYS_clone, &[dressed], EPERM);
        }
    }
}

#[test]
fn sockets_are_unix_inet_and_route_netlink_only() {
    let flags = bits(SOCK_CLOEXEC | SOCK_NONBLOCK);
    let (stream, datagram) = (bits(SOCK_STREAM), bits(SOCK_DGRAM));
    let (raw, packet) = (bits(SOCK_RAW), bits(SOCK_SEQPACKET));
    for kind in [stream, datagram, packet, stream | flags] {
        check(libc::SYS_socket, &[bits(AF_UNIX), kind, 0], ALLOW);
    }
    for family in [bits(AF_INET), bits(AF_INET6)] {
        for (kind, protocol, expected) in [
            (stream, 0, ALLOW),
            (stream | flags, 6, ALLOW),
            (datagram, 0, ALLOW),
            (datagram | flags, 17, ALLOW),
            // Ping sockets, SCTP, MPTCP, UDP-Lite, raw.
            (datagram, 1, EPERM),
            (datagram, 58, EPERM),
            (stream, 132, EPERM),
            (packet, 132, EPERM),
            (stream, 262, EPERM),
            (datagram, 136, EPERM),
            (raw, 0, EPERM),
            (raw | flags, 1, EPERM),
            (raw, 255, EPERM),
        ] {
            check(libc::SYS_socket, &[family, kind, protocol], expected);
        }
    }
    check(libc::SYS_socket, &[bits(AF_NETLINK), raw | flags, 0], ALLOW);
    // Audit, netfilter, uevents.
    for protocol in [9, 12, 15] {
        check(libc::SYS_socket, &[bits(AF_NETLINK), raw, protocol], EPERM);
    }
}

#[test]
fn no_other_socket_family_passes_however_it_is_written() {
    let program = program();
    let open = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK].map(bits);
    for family in 0..64 {
        for high in [0, 1 << 32, 0xffff_ffff_0000_0000] {
            if high == 0 && open.contains(&family) {
                continue;
            }
            for kind in 0..8 {
                let found = verdict(&program, libc::SYS_socket, &[family | high, kind, 0]);
                assert_eq!(found, EPERM.code(), "family {family:#x} | {high:#x}");
            }
        }
        let pair = verdict(&program, libc::SYS_socketpair, &[family, 1, 0]);
        assert_eq!(pair == ALLOW.code(), family == bits(AF_UNIX));
    }
    for family in [AF_ALG, AF_VSOCK, AF_PACKET] {
        check(
            libc::SYS_socket,
            &[bits(family), bits(SOCK_DGRAM), 0],
            EPERM,
        );
    }
}

#[test]
fn ioctl_cannot_type_into_a_terminal() {
    let program = program();
    for high in [0, 1 << 32, 0xdead_0000_0000_0000] {
        for low in 0..=0xffff_u64 {
            let request = low | high;
            let forbidden = low == 0x5412 || low == 0x541c;
            let expected = if forbidden { EPERM } else { ALLOW };
            let found = verdict(&program, libc::SYS_ioctl, &[0, request, 0]);
            assert_eq!(found, expected.code(), "request {request:#x}");
        }
    }
    // TCGETS2 and TIOCGPTN: both carry a size in their upper half.
    for request in [0x802c_542a, 0x8004_5430] {
        check(libc::SYS_ioctl, &[0, request], ALLOW);
    }
}

#[test]
fn nothing_turns_the_screws_on_pid_1() {
    let me = 0;
    for who in [1, 2, 1 << 32, u64::MAX, (1 << 32) | 1] {
        check(libc::SYS_prlimit64, &[who], EPERM);
        check(libc::SYS_sched_setscheduler, &[who], EPERM);
        check(libc::SYS_sched_setparam, &[who], EPERM);
        check(libc::SYS_sched_setattr, &[who], EPERM);
        for which in 0..4 {
            check(libc::SYS_setpriority, &[which, who], EPERM);
            check(libc::SYS_ioprio_set, &[which, who], EPERM);
        }
    }
    check(libc::SYS_prlimit64, &[me], ALLOW);
    check(libc::SYS_sched_setscheduler, &[me], ALLOW);
    check(libc::SYS_setpriority, &[0, me, 5], ALLOW);
    check(libc::SYS_setpriority, &[1, me, 5], ALLOW);
    // Everything of the uid: PID 1 has the same.
    check(libc::SYS_setpriority, &[2, me, 5], EPERM);
    check(libc::SYS_ioprio_set, &[3, me], EPERM);
}

#[test]
fn personality_keeps_address_randomisation() {
    for allowed in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        check(libc::SYS_personality, &[allowed], ALLOW);
    }
    // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO.
    for refused in [0x0004_0000, 0x0040_0000, 0x0010_0000, 1 << 32] {
        check(libc::SYS_personality, &[refused], EPERM);
    }
}

#[test]
fn the_bytes_are_the_program() {
    let bytes = bpf().unwrap();
    let program = program();
    assert_eq!(bytes.len(), program.len() * size_of::<sock_filter>());
    for (step, raw) in program.iter().zip(bytes.chunks_exact(8)) {
        assert_eq!(raw[..2], step.code.to_ne_bytes());
        assert_eq!(raw[2..4], [step.jt, step.jf]);
        assert_eq!(raw[4..], step.k.to_ne_bytes());
    }
    assert!(program.len() < 1000, "{} steps", program.len());
}

/// Every path through the program is short: the kernel walks one per call.
#[test]
fn no_path_is_long() {
    let program = program();
    fn longest(program: &[sock_filter], at: usize, known: &mut [Option<usize>]) -> usize {
        if let Some(length) = known[at] {
            return length;
        }
        let step = &program[at];
        let length = 1 + match step.code {
            compile::RETURN => 0,
            compile::JUMP => longest(program, at + 1 + step.k as usize, known),
            compile::IF_EQUAL | compile::IF_AT_LEAST => {
                let yes = longest(program, at + 1 + usize::from(step.jt), known);
                yes.max(longest(program, at + 1 + usize::from(step.jf), known))
            }
            _ => longest(program, at + 1, known),
        };
        known[at] = Some(length);
        length
    }
    let length = longest(&program, 0, &mut vec![None; program.len()]);
    assert!(length < 120, "{length} steps");
}

fn refused(syscalls: &str) -> ProfileError {
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{{"architecture": "{}", "subArchitectures": []}}],
            "syscalls": [{syscalls}]}}"#,
        ARCH.0
    );
    Profile::parse(&text)
        .and_then(|profile| compile::compile(&profile))
        .expect_err("the profile must be refused")
}

#[test]
fn a_profile_with_a_hole_is_refused() {
    let allow = r#""action": "SCMP_ACT_ALLOW""#;
    let unknown = refused(&format!(r#"{{"names": ["raed"], {allow}}}"#));
    assert!(matches!(unknown, ProfileError::UnknownCall(name) if name == "raed"));
    let twice = format!(r#"{{"names": ["read"], {allow}}}"#);
    let twice = refused(&format!("{twice}, {twice}"));
    assert!(matches!(twice, ProfileError::Contradiction(_)));
    let condition = |text: &str| format!(r#"{{"names": ["read"], {allow}, "args": [{text}]}}"#);
    let mixed = refused(&format!(
        r#"{}, {{"names": ["read"], {allow}}}"#,
        condition(r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}"#)
    ));
    assert!(matches!(mixed, ProfileError::Contradiction(_)));
    for bad in [
        r#"{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}"#,
        r#"{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}"#,
    ] {
        assert!(matches!(
            refused(&condition(bad)),
            ProfileError::Impossible(_)
        ));
    }
    for malformed in [
        &condition(r#"{"index": 0, "value": 1, "op": "SCMP_CMP_NE"}"#),
        r#"{"names": ["read"], "action": "SCMP_ACT_LOG"}"#,
        r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_X"]}}"#,
    ] {
        assert!(matches!(refused(malformed), ProfileError::Malformed(_)));
    }
}

#[test]
fn a_profile_for_other_machines_or_open_by_default_is_refused() {
    let text = |default: &str, arch: &str, sub: &str| {
        format!(
            r#"{{"defaultAction": "{default}", "syscalls": [],
                "archMap": [{{"architecture": "{arch}", "subArchitectures": [{sub}]}}]}}"#
        )
    };
    let try_it = |text: &str| Profile::parse(text).and_then(|profile| compile::compile(&profile));
    let closed = try_it(&text("SCMP_ACT_ERRNO", ARCH.0, "")).unwrap();
    assert_eq!(verdict(&closed, libc::SYS_read, &[]), EPERM.code());
    let elsewhere = try_it(&text("SCMP_ACT_ERRNO", "SCMP_ARCH_S390X", ""));
    assert!(matches!(elsewhere, Err(ProfileError::NotForThisMachine(_))));
    let open = try_it(&text("SCMP_ACT_ALLOW", ARCH.0, ""));
    assert!(matches!(open, Err(ProfileError::OpenByDefault)));
    let second = try_it(&text("SCMP_ACT_ERRNO", ARCH.0, r#""SCMP_ARCH_X86""#));
    assert!(matches!(second, Err(ProfileError::Malformed(_))));
}
