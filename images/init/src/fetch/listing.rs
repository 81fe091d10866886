//! The names in a folder, a batch at a time: nobody knows how many there are, and
//! the memory that would hold them is the program's.
//!
//! A folder that fits one batch is sorted, and is told as it was at one moment. A
//! larger one is sorted within each batch only.

use std::{
    ffi::{CStr, CString},
    os::fd::OwnedFd,
};

use nix::{
    errno::Errno,
    sys::stat::fstat,
    unistd::{Whence, lseek},
};

use crate::{place::Id, sys};

/// What the names that are held may take, those of all levels together. A level
/// gets half of what is left when it is read.
const HELD_BYTES: usize = 1 << 20;

/// What a level always gets. The longest name fits.
const LEAST_BYTES: usize = 512;

/// What the kernel is asked for at once.
const PIECE_BYTES: usize = 32 << 10;

/// What a name takes beside its letters, rounded up.
const NAME_BYTES: usize = 64;

/// A name as its folder has it.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: CString,
    /// A `DT_` number of the kernel.
    pub(super) stands_for: u8,
}

impl Name {
    fn cost(&self) -> usize {
        self.name.as_bytes().len() + NAME_BYTES
    }
}

/// A folder that is being told.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) id: Id,
    /// The length of its own path.
    pub(super) path: usize,
    /// What is left of the batch, the next one last.
    names: Vec<Name>,
    /// Where the next batch begins.
    rest: Option<Rest>,
    /// How many names may still be found in it: without an end to them, one who
    /// makes and removes files all the time would hold us for ever.
    room: u32,
}

/// The part of a folder that is not read.
#[derive(Debug, Clone, Copy)]
struct Rest {
    offset: i64,
    /// When the folder was last changed, as far as we know.
    changed: (i64, i64),
    /// The folder was closed meanwhile, and an offset may mean another place now
    /// if it was changed as well.
    reopened: bool,
}

/// What the names of all levels take.
#[derive(Debug, Default)]
pub(super) struct Held(usize);

/// Why there is no batch.
#[derive(Debug)]
pub(super) enum Trouble {
    TooMany,
    Errno(Errno),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl Level {
    /// Reads the first names in a folder that was just opened.
    pub(super) fn begin(
        folder: &OwnedFd,
        path: usize,
        room: u32,
        held: &mut Held,
    ) -> Result<Self, Trouble> {
        let stat = fstat(folder)?;
        let mut level = Self {
            id: Id::of(&stat),
            path,
            names: Vec::new(),
            rest: Some(Rest {
                offset: 0,
                changed: (stat.st_mtime, stat.st_mtime_nsec),
                reopened: false,
            }),
            room,
        };
        level.read(folder, held)?;
        Ok(level)
    }

    /// The next name of the batch.
    pub(super) fn pop(&mut self, held: &mut Held) -> Option<Name> {
        let name = self.names.pop()?;
        held.0 -= name.cost();
        Some(name)
    }

    /// Whether there may be another batch.
    pub(super) const fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// Its folder was closed and is open again.
    pub(super) const fn reopened(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.reopened = true;
        }
    }

    /// Reads the next batch. With `exact` not if names might be left out or told
    /// twice, for somebody changed the folder.
    pub(super) fn go_on(
        &mut self,
        folder: &OwnedFd,
        exact: bool,
        held: &mut Held,
    ) -> Result<(), Trouble> {
        let stat = fstat(folder)?;
        if let Some(rest) = &mut self.rest {
            let changed = (stat.st_mtime, stat.st_mtime_nsec);
            if exact && rest.reopened && rest.changed != changed {
                return Err(Errno::ESTALE.into());
            }
            rest.changed = changed;
        }
        self.read(folder, held)
    }

    fn read(&mut self, folder: &OwnedFd, held: &mut Held) -> Result<(), Trouble> {
        let Some(rest) = self.rest.take() else {
            return Ok(());
        };
        lseek(folder, rest.offset, Whence::SeekSet)?;
        let most = (HELD_BYTES.saturating_sub(held.0) / 2).max(LEAST_BYTES);
        let mut taken = 0;
        let mut piece = vec![0; PIECE_BYTES.min(most)];
        while taken < most {
            // A name takes more here than there.
            let wanted = ((most - taken) / 4).clamp(LEAST_BYTES, piece.len());
            let count = sys::read_folder(folder, &mut piece[..wanted])?;
            if count == 0 {
                self.sort();
                return Ok(());
            }
            let mut records = &piece[..count];
            while !records.is_empty() {
                let (name, behind) = first(records).ok_or(Errno::EIO)?;
                records = behind;
                if name.name.as_c_str() == c"." || name.name.as_c_str() == c".." {
                    continue;
                }
                self.room = self.room.checked_sub(1).ok_or(Trouble::TooMany)?;
                taken += name.cost();
                held.0 += name.cost();
                self.names.push(name);
            }
        }
        self.rest = Some(Rest {
            offset: lseek(folder, 0, Whence::SeekCur)?,
            reopened: false,
            ..rest
        });
        self.sort();
        Ok(())
    }

    fn sort(&mut self) {
        self.names
            .sort_unstable_by(|one, other| other.name.cmp(&one.name));
    }
}

/// The first name in what the kernel wrote, and what is behind it. Each is a
/// `struct linux_dirent64`.
fn first(records: &[u8]) -> Option<(Name, &[u8])> {
    /// What is before the name: inode, offset, length of the record, kind.
    const HEAD: usize = 19;
    let (head, name) = records.split_first_chunk::<HEAD>()?;
    let length = usize::from(u16::from_ne_bytes([head[16], head[17]]));
    let name = CStr::from_bytes_until_nul(name.get(..length.checked_sub(HEAD)?)?).ok()?;
    let name = Name {
        name: name.to_owned(),
        stands_for: head[18],
    };
    Some((name, &records[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &[u8], stands_for: u8) -> Vec<u8> {
        let mut record = vec![7; 16];
        let length = u16::try_from((19 + name.len()).next_multiple_of(8)).expect("short");
        record.extend(length.to_ne_bytes());
        record.push(stands_for);
        record.extend(name);
        record.resize(length.into(), 0);
        record
    }

    #[test]
    fn a_record_ends_where_it_says() {
        let records = [record(b"one\0", 8), record(b"two-and-more\0", 4)].concat();
        let (one, rest) = first(&records).expect("one");
        assert_eq!((one.name.as_c_str(), one.stands_for), (c"one", 8));
        let (two, rest) = first(rest).expect("two");
        assert_eq!((two.name.as_c_str(), two.stands_for), (c"two-and-more", 4));
        assert_eq!(rest, b"");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let whole = record(b"name\0", 8);
        for length in 0..whole.len() {
            assert!(first(&whole[..length]).is_none(), "{length}");
        }
        assert!(first(&record(b"abcde", 8)).is_none(), "without an end");
        let mut short = whole;
        short[16..18].copy_from_slice(&18_u16.to_ne_bytes());
        assert!(first(&short).is_none(), "shorter than its head");
    }
}
