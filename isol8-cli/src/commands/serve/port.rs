//! Which port the gateway listens at.

use std::{
    env,
    io::{self, BufRead as _, IsTerminal as _},
    net::{IpAddr, SocketAddr, TcpListener},
};

use isol8_core::failure::{Failure, FailureKind};

use crate::console::Console;

const USUAL: u16 = 3000;

/// Variables that name the port, first given first.
const VARIABLES: [&str; 2] = ["ISOL8_PORT", "PORT"];

/// Listens at the port that is wanted. Where it is busy a person is asked, and a
/// free one is taken without a person. `None`: the person wants none.
///
/// # Errors
/// A variable that names no port, an address that is not this host's.
pub(super) fn listen(
    bind: IpAddr,
    flag: Option<u16>,
    console: &Console,
) -> Result<Option<TcpListener>, Failure> {
    let lookup = |name: &str| env::var(name).ok();
    let mut port = wanted(flag, &lookup)?;
    loop {
        match TcpListener::bind((bind, port)) {
            Ok(listener) => return ready(listener).map(Some),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => {
                match busy(port, console)? {
                    Some(other) => port = other,
                    None => return Ok(None),
                }
            }
            Err(error) => return Err(cannot(SocketAddr::new(bind, port), &error)),
        }
    }
}

fn ready(listener: TcpListener) -> Result<TcpListener, Failure> {
    let set = listener.set_nonblocking(true);
    set.map_err(|error| Failure::new(FailureKind::Internal, "cannot serve").because(&error))?;
    Ok(listener)
}

fn cannot(address: SocketAddr, error: &io::Error) -> Failure {
    let message = format!("cannot listen at `{address}`");
    let failure = Failure::new(FailureKind::Unsupported, message).because(error);
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failure.hint("ports below 1024 are root's; take another one with `--port`")
        }
        _ => failure.hint("`--bind` takes an address of this host"),
    }
}

fn wanted(flag: Option<u16>, lookup: &dyn Fn(&str) -> Option<String>) -> Result<u16, Failure> {
    if let Some(port) = flag {
        return Ok(port);
    }
    for name in VARIABLES {
        let Some(text) = lookup(name).filter(|text| !text.is_empty()) else {
            continue;
        };
        return text.parse().map_err(|_| {
            let message = format!("`{name}` is `{}`, which is no port", text.escape_debug());
            Failure::new(FailureKind::InvalidRequest, message)
                .hint("set it to a number from 1 to 65535, or give `--port`")
        });
    }
    Ok(USUAL)
}

/// What to try in place of a busy port; 0 stands for any free one.
fn busy(port: u16, console: &Console) -> Result<Option<u16>, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        console.warning(&format!("port {port} is busy, taking a free one"));
        return Ok(Some(0));
    }
    loop {
        console.prompt(&format!(
            "Port {port} is busy. Another port, Enter for any free one, or q to leave: "
        ));
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let read = read.map_err(|error| {
            Failure::new(FailureKind::Internal, "cannot read the answer").because(&error)
        })?;
        match line.trim() {
            // The end of input, not an empty line.
            _ if read == 0 => return Ok(None),
            "" => return Ok(Some(0)),
            "q" | "Q" => return Ok(None),
            other => match other.parse() {
                Ok(port) => return Ok(Some(port)),
                Err(_) => console.say("that is no port"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_comes_first_and_3000_last() {
        let both = |name: &str| {
            let value = match name {
                "ISOL8_PORT" => "4000",
                _ => "5000",
            };
            Some(value.to_owned())
        };
        let port = |name: &str| (name == "PORT").then(|| "5000".to_owned());
        let empty = |_: &str| Some(String::new());
        assert_eq!(wanted(Some(1), &both), Ok(1));
        assert_eq!(wanted(None, &both), Ok(4000));
        assert_eq!(wanted(None, &port), Ok(5000));
        assert_eq!(wanted(None, &empty), Ok(3000));
        assert_eq!(wanted(None, &|_| None), Ok(3000));
    }

    #[test]
    fn a_variable_that_is_no_port_is_named() {
        let failure = wanted(None, &|_| Some("many".to_owned())).expect_err("it is no port");
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
        assert!(
            failure.message.contains("`ISOL8_PORT` is `many`"),
            "{failure}"
        );
    }
}
