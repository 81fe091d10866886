//! The programs of the fake engine, one operation a line.
//!
//! | line | what the program does |
//! |---|---|
//! | `out TEXT`, `err TEXT` | writes the text and a line feed |
//! | `drip TEXT` | writes the text to stdout byte by byte, a frame each |
//! | `raw HEX` | writes these bytes to stdout |
//! | `flood N`, `flood-err N` | writes N bytes `x` |
//! | `env NAME` | writes `NAME=value`, or `NAME unset` |
//! | `about` | writes the size of its file, its argv and whether it was parked |
//! | `echo-stdin` | copies stdin to stdout until it is closed |
//! | `sleep MS` | waits |
//! | `signal-wait` | waits for a signal, writes `got N`, goes on |
//! | `exit N`, `kill N` | ends with this code, by this signal |
//! | `cpu US`, `memory N`, `shmem N` | uses so much |
//! | `held N` | leaves so much memory in use |
//! | `oom` | the memory limit kills it |
//! | `oom-init` | the memory limit kills it and init |
//! | `die` | the connection is lost |
//! | `perish` | init ends, and with it the sandbox |
//! | `hang` | waits until it is killed |
//! | `deaf` | init answers nothing any more |
//! | `nonsense` | init sends what is no message |
//! | `place NAME` | leaves a file of this name to be fetched |
//! | `write PATH TEXT` | puts the text and a line feed into a file: below /sandbox, or `/tmp/…` |
//! | `link PATH TARGET` | makes a symbolic link |
//! | `read PATH` | writes what is in the file, or `no PATH` |
//! | `background NAME` | leaves a process of this name that does not end with the program |
//! | `ps` | writes the names of such processes, one a line |
//! | `refuse KIND` | init does not start it, with this number of `FailureKind` |
//!
//! Any other line does nothing, so a program can be as long as a test wants.

/// One line of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Bytes for stdout.
    Out(Vec<u8>),
    /// Bytes for stderr.
    Err(Vec<u8>),
    /// Bytes for stdout, each in a frame.
    Drip(Vec<u8>),
    /// So many bytes for stdout.
    Flood(u64),
    /// So many bytes for stderr.
    FloodErr(u64),
    /// Show an environment variable.
    Env(String),
    /// Show what init was told.
    About,
    /// Copy stdin to stdout.
    EchoStdin,
    /// Wait so many milliseconds.
    Sleep(u64),
    /// Wait for a signal.
    SignalWait,
    /// End with a code.
    Exit(i32),
    /// End by a signal.
    Kill(i32),
    /// Use so many microseconds of processor time.
    Cpu(u64),
    /// Reach so much memory.
    Memory(u64),
    /// Hold so much memory in files.
    Shmem(u64),
    /// Leave so much memory in use.
    Held(u64),
    /// Be killed by the memory limit.
    Oom,
    /// Be killed by the memory limit with init.
    OomInit,
    /// Lose the connection.
    Die,
    /// Wait for ever.
    Hang,
    /// Init stops answering.
    Deaf,
    /// Init sends garbage.
    Nonsense,
    /// Leave a file to be fetched.
    Place(String),
    /// End with init and everything else in the sandbox.
    Perish,
    /// Put bytes into a file.
    Write(String, Vec<u8>),
    /// Make a symbolic link.
    Link(String, String),
    /// Show a file.
    Read(String),
    /// Leave a process.
    Background(String),
    /// Show what earlier programs left.
    Processes,
    /// Init refuses to start the program.
    Refuse(i32),
}

/// The operation that a line stands for, if it stands for one.
#[must_use]
pub fn parse(line: &str) -> Option<Op> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let text = || format!("{rest}\n").into_bytes();
    Some(match word {
        "out" => Op::Out(text()),
        "err" => Op::Err(text()),
        "raw" => Op::Out(unhex(rest)?),
        "drip" => Op::Drip(rest.as_bytes().to_vec()),
        "flood" => Op::Flood(rest.parse().ok()?),
        "flood-err" => Op::FloodErr(rest.parse().ok()?),
        "env" => Op::Env(rest.to_owned()),
        "about" => Op::About,
        "echo-stdin" => Op::EchoStdin,
        "sleep" => Op::Sleep(rest.parse().ok()?),
        "signal-wait" => Op::SignalWait,
        "exit" => Op::Exit(rest.parse().ok()?),
        "kill" => Op::Kill(rest.parse().ok()?),
        "cpu" => Op::Cpu(rest.parse().ok()?),
        "memory" => Op::Memory(rest.parse().ok()?),
        "shmem" => Op::Shmem(rest.parse().ok()?),
        "held" => Op::Held(rest.parse().ok()?),
        "oom" => Op::Oom,
        "oom-init" => Op::OomInit,
        "die" => Op::Die,
        "hang" => Op::Hang,
        "deaf" => Op::Deaf,
        "nonsense" => Op::Nonsense,
        "place" => Op::Place(rest.to_owned()),
        "perish" => Op::Perish,
        "write" => {
            let (path, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Op::Write(path.to_owned(), format!("{text}\n").into_bytes())
        }
        "link" => {
            let (path, target) = rest.split_once(' ')?;
            Op::Link(path.to_owned(), target.to_owned())
        }
        "read" => Op::Read(rest.to_owned()),
        "background" => Op::Background(rest.to_owned()),
        "ps" => Op::Processes,
        "refuse" => Op::Refuse(rest.parse().ok()?),
        _ => return None,
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .ok()
}
