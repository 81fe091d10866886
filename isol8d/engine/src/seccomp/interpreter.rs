//! What the kernel does with a program, for tests: classic BPF over
//! `struct seccomp_data`, as far as the compiler uses it.

use libc::sock_filter;

use super::compile::{AND, IF_AT_LEAST, IF_EQUAL, JUMP, LOAD, RETURN};

/// One system call as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.number.to_ne_bytes());
        bytes.extend(self.arch.to_ne_bytes());
        bytes.extend(0x7f00_dead_beef_u64.to_ne_bytes());
        for arg in self.args {
            bytes.extend(arg.to_ne_bytes());
        }
        bytes
    }
}

/// Runs the program and gives the code it returns. Panics where the kernel
/// would not have accepted the program.
pub(super) fn run(program: &[sock_filter], call: &Call) -> u32 {
    let data = call.bytes();
    let mut accumulator = 0_u32;
    let mut at = 0;
    loop {
        let step = program.get(at).expect("no jump leaves the program");
        at += 1;
        match step.code {
            LOAD => {
                let from = usize::try_from(step.k).unwrap();
                assert_eq!(from % 4, 0, "loads are aligned");
                let word = data[from..from + 4].try_into().unwrap();
                accumulator = u32::from_ne_bytes(word);
            }
            AND => accumulator &= step.k,
            JUMP => at += usize::try_from(step.k).unwrap(),
            IF_EQUAL if accumulator == step.k => at += usize::from(step.jt),
            IF_AT_LEAST if accumulator >= step.k => at += usize::from(step.jt),
            IF_EQUAL | IF_AT_LEAST => at += usize::from(step.jf),
            RETURN => return step.k,
            other => panic!("the compiler does not make opcode {other:#x}"),
        }
    }
}
