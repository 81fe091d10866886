//! From a profile to the program that the kernel runs before every system call.
//!
//! ```text
//! architecture ≠ ours ───────────────────────────────▶ kill the process
//! x86-64: number has the x32 bit ────────────────────▶ kill the process
//! number ─▶ binary search over ranges of one verdict ─▶ allow │ errno │ rules
//! rules: the first whose conditions all hold decides, else the default
//! ```
//!
//! A search, not a list: the kernel walks the program once for every number
//! when it is installed, and each sandbox pays for that.

use std::collections::BTreeMap;

use libc::sock_filter;

use super::{
    numbers::{Number, number},
    profile::{Action, Condition, Profile, ProfileError, Rule},
};

#[cfg(target_arch = "x86_64")]
pub(super) const ARCH: (&str, u32) = ("SCMP_ARCH_X86_64", 0xc000_003e);
#[cfg(target_arch = "aarch64")]
pub(super) const ARCH: (&str, u32) = ("SCMP_ARCH_AARCH64", 0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) const ARCH: (&str, u32) = ("an architecture that isol8 does not know", 0);

/// Numbers from here on are the x32 table of an x86-64 kernel.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// `BPF_MAXINSNS`.
const MAX_STEPS: usize = 4096;

// Where `struct seccomp_data` holds what.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;
const ARGS: u32 = 6;

// Opcodes of classic BPF.
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Errno(u16),
    KillProcess,
}

impl Verdict {
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Errno(errno) => 0x0005_0000 | errno as u32,
            Self::KillProcess => 0x8000_0000,
        }
    }

    fn of(rule: &Rule) -> Self {
        match rule.action {
            Action::Allow => Self::Allow,
            Action::Errno => Self::Errno(rule.errno_ret.unwrap_or(EPERM)),
        }
    }
}

const EPERM: u16 = 1;
const DEFAULT: Verdict = Verdict::Errno(EPERM);

/// What a number leads to.
#[derive(Debug, Clone, PartialEq)]
enum Leaf<'p> {
    Always(Verdict),
    /// The verdict when one of the alternatives holds.
    If(Verdict, Vec<&'p [Condition]>),
}

/// Compiles for the machine that this was built for.
pub(super) fn compile(profile: &Profile) -> Result<Vec<sock_filter>, ProfileError> {
    let (name, audit) = ARCH;
    let served = profile
        .arch_map
        .iter()
        .any(|entry| entry.architecture == name);
    if !served {
        return Err(ProfileError::NotForThisMachine(name));
    }
    let mut program = vec![
        step(LOAD, ARCH_AT),
        branch(IF_EQUAL, audit, 1, 0),
        finish(Verdict::KillProcess),
        step(LOAD, NUMBER_AT),
    ];
    if cfg!(target_arch = "x86_64") {
        program.push(branch(IF_AT_LEAST, X32_BIT, 0, 1));
        program.push(finish(Verdict::KillProcess));
    }
    program.extend(search(&ranges(leaves(profile)?)));
    if program.len() > MAX_STEPS {
        return Err(ProfileError::TooLong(program.len()));
    }
    Ok(program)
}

/// The program as the kernel reads it.
pub(super) fn bytes(program: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for step in program {
        bytes.extend(step.code.to_ne_bytes());
        bytes.extend([step.jt, step.jf]);
        bytes.extend(step.k.to_ne_bytes());
    }
    bytes
}

/// Gathers the rules of each number.
fn leaves(profile: &Profile) -> Result<BTreeMap<u32, Leaf<'_>>, ProfileError> {
    let mut leaves = BTreeMap::new();
    for rule in &profile.syscalls {
        for name in &rule.names {
            match number(name) {
                Number::Here(number) => add(&mut leaves, number, name, rule)?,
                Number::Elsewhere => {}
                Number::Unknown => return Err(ProfileError::UnknownCall(name.clone())),
            }
        }
    }
    Ok(leaves)
}

fn add<'p>(
    leaves: &mut BTreeMap<u32, Leaf<'p>>,
    number: u32,
    name: &str,
    rule: &'p Rule,
) -> Result<(), ProfileError> {
    let possible = |condition: &Condition| {
        let (mask, datum) = condition.mask_and_datum();
        condition.index < ARGS && datum & !mask == 0
    };
    if !rule.args.iter().all(possible) {
        return Err(ProfileError::Impossible(name.to_owned()));
    }
    let verdict = Verdict::of(rule);
    let leaf = if rule.args.is_empty() {
        Leaf::Always(verdict)
    } else {
        Leaf::If(verdict, vec![&rule.args])
    };
    match leaves.get_mut(&number) {
        None => {
            leaves.insert(number, leaf);
        }
        Some(Leaf::If(before, alternatives)) if *before == verdict && !rule.args.is_empty() => {
            alternatives.push(&rule.args);
        }
        // Said twice, or with and without conditions: which one was meant?
        Some(_) => return Err(ProfileError::Contradiction(name.to_owned())),
    }
    Ok(())
}

/// Cuts all numbers into ranges, each from its first number up to the next
/// range's, so that neighbours of one verdict are one range.
fn ranges(leaves: BTreeMap<u32, Leaf<'_>>) -> Vec<(u32, Leaf<'_>)> {
    let mut ranges = vec![(0, Leaf::Always(DEFAULT))];
    for (number, leaf) in leaves {
        begin(&mut ranges, number, leaf);
        begin(&mut ranges, number + 1, Leaf::Always(DEFAULT));
    }
    ranges
}

/// Lets `leaf` hold from `from` on. The last range may begin at `from` already:
/// it is then replaced.
fn begin<'p>(ranges: &mut Vec<(u32, Leaf<'p>)>, from: u32, leaf: Leaf<'p>) {
    if ranges.last().is_some_and(|(start, _)| *start == from) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, before)| *before != leaf) {
        ranges.push((from, leaf));
    }
}

fn search(ranges: &[(u32, Leaf<'_>)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![finish(DEFAULT)],
        [(_, leaf)] => decide(leaf),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let first_high = high[0].0;
            let low = search(low);
            let mut code = match u8::try_from(low.len()) {
                Ok(skip) => vec![branch(IF_AT_LEAST, first_high, skip, 0)],
                // Too far for a branch: it goes round a long jump.
                Err(_) => vec![
                    branch(IF_AT_LEAST, first_high, 0, 1),
                    step(JUMP, u32::try_from(low.len()).expect("programs are short")),
                ],
            };
            code.extend(low);
            code.extend(search(high));
            code
        }
    }
}

fn decide(leaf: &Leaf<'_>) -> Vec<sock_filter> {
    match leaf {
        Leaf::Always(verdict) => vec![finish(*verdict)],
        Leaf::If(verdict, alternatives) => {
            let mut code = Vec::new();
            for conditions in alternatives {
                code.extend(alternative(conditions, *verdict));
            }
            code.push(finish(DEFAULT));
            code
        }
    }
}

/// Ends in the verdict when every condition holds, else goes on behind itself.
fn alternative(conditions: &[Condition], verdict: Verdict) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for condition in conditions {
        code.extend(test(condition));
    }
    code.push(finish(verdict));
    // A failed test leaves the alternative: only now is it known how far that is.
    let length = code.len();
    for (at, step) in code.iter_mut().enumerate() {
        if step.code == IF_EQUAL {
            let rest = length - at - 1;
            step.jf = u8::try_from(rest).expect("six arguments make a short alternative");
        }
    }
    code
}

/// Compares the two halves of an argument, leaving out a half that is masked
/// away whole.
fn test(condition: &Condition) -> Vec<sock_filter> {
    let (mask, datum) = condition.mask_and_datum();
    let at = ARGS_AT + 8 * condition.index;
    let (low_at, high_at) = if cfg!(target_endian = "little") {
        (at, at + 4)
    } else {
        (at + 4, at)
    };
    let mut code = Vec::new();
    for (at, shift) in [(high_at, 32), (low_at, 0)] {
        let half = |bits: u64| u32::try_from((bits >> shift) & 0xffff_ffff).expect("32 bits");
        if half(mask) == 0 {
            continue;
        }
        code.push(step(LOAD, at));
        if half(mask) != u32::MAX {
            code.push(step(AND, half(mask)));
        }
        code.push(branch(IF_EQUAL, half(datum), 0, 0));
    }
    code
}

const fn step(code: u16, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const fn finish(verdict: Verdict) -> sock_filter {
    step(RETURN, verdict.code())
}
