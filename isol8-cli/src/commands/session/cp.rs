//! `isol8 session cp`: what is typed becomes an [`Order`], which is all checked
//! before anything moves; then one stream for each source, [`upload`] or
//! [`download`].
//!
//! ```text
//! upload:    tree here ─▶ read (thread) ─▶ 4 pieces ─▶ Put ─▶ daemon
//! download:  tree here ◀─ write (thread) ◀─ 4 pieces ◀─ Get ◀─ daemon
//! ```
//!
//! Pieces have 256 KiB, so memory does not grow with what is copied. The thread
//! may block on a disk; the other side hears signals all the time.

mod destination;
mod download;
mod interrupts;
mod meter;
mod read;
mod skipped;
mod stdio;
mod upload;
mod write;

use std::{ffi::OsStr, ffi::OsString, fs, os::unix::ffi::OsStrExt as _, path::Path};

use isol8_core::failure::Failure;

use super::{
    Client, client,
    place::{Inside, Place},
    wrong,
};
use crate::{console::Console, exit::Exit, paths::Paths};
use interrupts::Interrupts;
use skipped::Skipped;

/// The most that one message may hold.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces between the thread and the stream.
const PIECES: usize = 4;

/// What is to be copied, as far as it can be known without the daemon.
#[derive(Debug)]
pub(super) enum Order {
    Up {
        sources: Vec<upload::Source>,
        destination: Inside,
    },
    Down {
        sources: Vec<Inside>,
        destination: destination::Destination,
        recursive: bool,
    },
}

/// How a copy came to its end.
#[derive(Debug)]
enum Ended {
    Whole,
    /// This signal ended it.
    Interrupted(i32),
    /// Nobody reads our stdout any more.
    StdoutClosed,
}

impl Order {
    /// Looks at what is typed, and at what is here.
    pub(super) fn parse(
        sources: &[OsString],
        destination: &OsStr,
        recursive: bool,
    ) -> Result<Self, Failure> {
        let places = sources.iter().map(|source| Place::parse(source));
        let places: Vec<Place> = places.collect::<Result<_, _>>()?;
        let inside = |place: &Place| matches!(place, Place::Inside(_));
        match Place::parse(destination)? {
            Place::Inside(destination) => {
                if places.iter().any(inside) {
                    return Err(wrong("nothing is copied from a session to a session")
                        .hint("copy it here first, then from here"));
                }
                let sources = places.into_iter().map(|place| match place {
                    Place::Standard => upload::Source::stdin(&destination),
                    Place::Here(path) => upload::Source::here(path, recursive),
                    Place::Inside(_) => unreachable!("there is none"),
                });
                let sources: Vec<upload::Source> = sources.collect::<Result<_, _>>()?;
                if sources.len() > 1 && sources.iter().any(upload::Source::is_stdin) {
                    return Err(wrong("stdin is not copied along with others")
                        .hint("give it an `isol8 session cp` of its own"));
                }
                Ok(Self::Up {
                    sources,
                    destination,
                })
            }
            here => {
                let sources = places.into_iter().map(|place| match place {
                    Place::Inside(source) => Ok(source),
                    Place::Standard | Place::Here(_) => Err(no_session()),
                });
                let sources: Vec<Inside> = sources.collect::<Result<_, _>>()?;
                let one = sources.len() == 1;
                let destination = match here {
                    Place::Here(path) => destination::Destination::look(path, one)?,
                    _ if one => destination::Destination::Stdout,
                    _ => {
                        return Err(wrong("only one file is copied to stdout")
                            .hint("give each an `isol8 session cp` of its own"));
                    }
                };
                Ok(Self::Down {
                    sources,
                    destination,
                    recursive,
                })
            }
        }
    }
}

fn no_session() -> Failure {
    wrong("one side of a copy is in a session, the other is here")
        .hint("write it like `isol8 session cp data.csv work:/sandbox/`")
}

/// Copies. Links and others in folders are passed over, and told at the end.
pub(super) async fn cp(order: Order, paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut skipped = Skipped::default();
    let (_, mut client) = client(paths, console).await?;
    let ended = match order {
        Order::Up {
            sources,
            destination,
        } => {
            let all = upload::Upload {
                client: &mut client,
                interrupts: &mut interrupts,
                skipped: &mut skipped,
                console,
            };
            all.run(sources, destination).await
        }
        Order::Down {
            sources,
            destination,
            recursive,
        } => {
            let all = download::Download {
                client: &mut client,
                interrupts: &mut interrupts,
                skipped: &mut skipped,
                recursive,
            };
            all.run(sources, &destination).await
        }
    };
    skipped.tell(console);
    Ok(match ended? {
        Ended::Whole => Exit::Done,
        Ended::Interrupted(signal) => Exit::Interrupted(u8::try_from(signal).unwrap_or(u8::MAX)),
        Ended::StdoutClosed => Exit::StdoutClosed,
    })
}

/// `-r` was not given, and it is a folder.
fn is_a_folder(shown: &str) -> Failure {
    wrong(format!("`{shown}` is a folder"))
        .hint("`isol8 session cp -r` copies folders, with everything in them")
}

/// A path as it may be shown on one line.
fn shown(path: &Path) -> String {
    crate::console::visible(path.as_os_str().as_bytes())
}

/// Whether a path is written so that it can only be a folder.
fn reads_as_folder(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || means_contents(path)
}

/// Whether a path is written so that what is in the folder is meant: `.`, `x/.`.
fn means_contents(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let last = bytes.rsplit(|byte| *byte == b'/').next();
    matches!(last, Some(b"." | b".."))
}

/// What a path leads to, through links: the person has typed it.
fn look(path: &Path) -> std::io::Result<fs::Metadata> {
    fs::metadata(path)
}
