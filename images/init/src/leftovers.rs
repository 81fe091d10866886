//! Pipes of ended programs that processes in the background still hold.
//!
//! In a sandbox that lasts such a process lives on, and writing must not end it:
//! what it writes is read and thrown away. Past [`MOST_PIPES`] the one that was
//! left first is closed, and who still writes into it gets SIGPIPE.

use std::{collections::VecDeque, fs::File, io::Read as _};

use crate::wire::is_temporary;

/// 32 runs whose background processes hold both streams.
const MOST_PIPES: usize = 64;

/// What is thrown away in one piece: a usual pipe.
const PIECE_BYTES: usize = 64 << 10;

/// The pipes, those left first at the front.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    pipes: VecDeque<File>,
    /// Nothing until there is a pipe.
    scrap: Vec<u8>,
}

impl Leftovers {
    /// Takes our end of a pipe, which does not block.
    pub(crate) fn add(&mut self, pipe: File) {
        if self.pipes.len() >= MOST_PIPES {
            self.pipes.pop_front();
        }
        self.scrap.resize(PIECE_BYTES, 0);
        self.pipes.push_back(pipe);
    }

    pub(crate) fn pipes(&self) -> impl Iterator<Item = &File> {
        self.pipes.iter()
    }

    /// Reads one piece of each, and closes those that nobody holds any more.
    pub(crate) fn pump(&mut self) {
        let scrap = &mut self.scrap;
        self.pipes.retain_mut(|pipe| match pipe.read(scrap) {
            Ok(count) => count > 0,
            Err(error) => is_temporary(&error),
        });
    }
}
