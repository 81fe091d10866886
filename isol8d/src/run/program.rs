//! A program on its way into the sandbox: its file, then the command to start.

use bytes::Bytes;
use isol8_core::{
    env, park,
    request::{RunRequest, bytes_of_code::Code},
};
use isol8_engine::Interpreter;
use isol8_proto::init::{Command, EnvVar, Exec, File, to_init};

use crate::outbox::WINDOW_BYTES;

/// The most that one frame carries.
const PIECE_BYTES: usize = 256 << 10;

/// What is handed to the socket at once. A program up to this size goes out in
/// one write with its command; a larger one does not fill the daemon's memory.
const BURST_BYTES: usize = 1 << 20;

/// Readable by the program, which it belongs to.
const MODE: u32 = 0o644;

/// The frames that start a program, in order.
#[derive(Debug)]
pub(super) struct Program {
    path: Bytes,
    code: Code,
    offset: usize,
    file_done: bool,
    /// The command is not sent before init has the file.
    waits: bool,
    exec: Option<Exec>,
}

impl Program {
    pub(super) fn new(request: &RunRequest, interpreter: &Interpreter, parked: bool) -> Self {
        let name = format!("main.{}", request.extension);
        Self {
            exec: Some(exec(request, interpreter, &name, parked)),
            path: name.into_bytes().into(),
            code: request.code.clone(),
            offset: 0,
            file_done: false,
            waits: false,
        }
    }

    /// An earlier program may have the same name: it must not run in place of one
    /// that could not be written.
    pub(super) fn wait_for_file(&mut self) {
        self.waits = true;
    }

    /// Init has the file.
    pub(super) fn file_written(&mut self) {
        self.waits = false;
    }

    /// Everything was given out.
    pub(super) fn is_sent(&self) -> bool {
        self.exec.is_none()
    }

    /// The frames of the next burst.
    pub(super) fn burst(&mut self) -> Vec<to_init::Message> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        while !self.file_done && bytes < BURST_BYTES {
            let rest = &self.code.as_bytes()[self.offset..];
            let piece = &rest[..rest.len().min(PIECE_BYTES)];
            bytes += piece.len();
            self.file_done = piece.len() == rest.len();
            frames.push(to_init::Message::File(File {
                path: self.path.clone(),
                data: Bytes::copy_from_slice(piece),
                append: self.offset > 0,
                last: self.file_done,
                mode: MODE,
                ..File::default()
            }));
            self.offset += piece.len();
        }
        if self.file_done && !self.waits {
            frames.extend(self.exec.take().map(to_init::Message::Exec));
        }
        frames
    }
}

fn exec(request: &RunRequest, interpreter: &Interpreter, file_name: &str, parked: bool) -> Exec {
    let base = interpreter.environment(request.network);
    let mut variables = base.clone();
    for (name, value) in &request.env {
        variables.insert(name.clone(), value.clone());
    }
    for (name, secret) in &request.secrets {
        variables.insert(name.clone(), secret.0.clone());
    }
    let program = format!("{}/{file_name}", env::HOME);
    // A parked interpreter is past its start: it cannot serve a program that
    // changes what it has read by then, nor one that it would not look for.
    let use_parked = parked
        && park::plan(request.runtime, &interpreter.program).is_some_and(|plan| {
            park::takes_entry(request.runtime, &plan, &program)
                && park::fits(request.runtime, &base, &variables)
        });
    let argv = request.runtime.command_line(&interpreter.program, &program);
    Exec {
        command: Some(Command {
            argv: argv
                .into_iter()
                .map(|arg| arg.into_bytes().into())
                .collect(),
            env: variables
                .into_iter()
                .map(|(name, value)| EnvVar {
                    name: name.into_bytes().into(),
                    value: value.into_bytes().into(),
                })
                .collect(),
            cwd: env::HOME.as_bytes().into(),
        }),
        use_parked,
        stdout_credit: WINDOW_BYTES,
        stderr_credit: WINDOW_BYTES,
        stdin: request.stdin,
    }
}

#[cfg(test)]
mod tests {
    use isol8_core::config::Config;
    use isol8_proto::v1;

    use super::*;

    fn program(code: Vec<u8>) -> Program {
        let start = v1::Start {
            runtime: v1::Runtime::Python.into(),
            code: code.into(),
            ..Default::default()
        };
        let request = crate::convert::run_request(start, &Config::default()).expect("good");
        let interpreter = Interpreter {
            program: "python3".to_owned(),
            path: "/usr/bin".to_owned(),
            parkable: true,
            authorities: None,
            deno_dir: None,
        };
        Program::new(&request, &interpreter, true)
    }

    #[test]
    fn a_small_program_goes_out_with_its_command() {
        for code in [Vec::new(), b"print(1)".to_vec()] {
            let mut program = program(code);
            let burst = program.burst();
            assert!(matches!(
                &burst[..],
                [to_init::Message::File(file), to_init::Message::Exec(exec)]
                    if file.last && !file.append && exec.use_parked
            ));
            assert!(program.is_sent());
        }
    }

    #[test]
    fn a_large_program_comes_whole_in_bursts() {
        let code: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut program = program(code.clone());
        let mut file = Vec::new();
        let mut bursts = 0;
        while !program.is_sent() {
            bursts += 1;
            for frame in program.burst() {
                match frame {
                    to_init::Message::File(piece) => {
                        assert_eq!(piece.append, !file.is_empty());
                        file.extend_from_slice(&piece.data);
                        assert_eq!(piece.last, file.len() == code.len());
                    }
                    other => assert!(matches!(other, to_init::Message::Exec(_))),
                }
            }
        }
        assert_eq!(bursts, 3);
        assert!(file == code);
    }
}
