//! A file that the daemon sends to a fake sandbox: it is there with its last
//! piece, and not before.

use bytes::{Bytes, BytesMut};
use isol8_proto::init::{Failed, File, FileWritten};

use super::{
    insides::{Insides, refusal},
    tree::Errno,
};

/// For files that come without one.
const USUAL_MODE: u32 = 0o644;

/// The file that is being written. It goes with the stream.
#[derive(Debug)]
pub(super) struct Writing {
    root: i32,
    path: Bytes,
    data: BytesMut,
    /// Its first piece has come.
    begun: bool,
    /// It has failed and the daemon knows.
    answered: bool,
}

/// Takes one piece. Gives the answer that it calls for, if any: one per file.
pub(super) fn take(
    writing: &mut Option<Writing>,
    insides: &mut Insides,
    piece: &File,
) -> Option<Result<FileWritten, Failed>> {
    let goes_on =
        |state: &Writing| piece.append && state.path == piece.path && state.root == piece.root;
    if !writing.as_ref().is_some_and(goes_on) {
        *writing = Some(Writing {
            root: piece.root,
            path: piece.path.clone(),
            data: BytesMut::new(),
            begun: !piece.append,
            answered: false,
        });
    }
    let state = writing.as_mut()?;
    let mut answer = None;
    if !state.answered {
        answer = match state.add(insides, piece) {
            Ok(()) => piece.last.then(|| {
                let bytes = state.data.len() as u64;
                Ok(FileWritten { bytes })
            }),
            Err(errno) => Some(Err(refusal(errno, &piece.path))),
        };
        state.answered = answer.is_some();
    }
    if piece.last {
        *writing = None;
    }
    answer
}

impl Writing {
    fn add(&mut self, insides: &mut Insides, piece: &File) -> Result<(), Errno> {
        if !self.begun {
            return Err(libc::EINVAL);
        }
        insides.tree_mut(self.root)?.make_way(&self.path)?;
        self.data.extend_from_slice(&piece.data);
        if !insides.has_room(self.root, self.data.len() as u64) {
            return Err(libc::ENOSPC);
        }
        if piece.last {
            let mode = match piece.mode {
                0 => USUAL_MODE,
                mode => mode & 0o777,
            };
            let data = self.data.clone().freeze();
            insides.tree_mut(self.root)?.put(&self.path, mode, data)?;
        }
        Ok(())
    }
}
