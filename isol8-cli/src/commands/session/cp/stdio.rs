//! `-`: our stdin as a file to send, our stdout as a file to write.

use std::{
    env,
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{FileType, Mode, OFlags, SeekFrom, fstat, open, openat, seek, unlinkat},
    stdio,
};

/// Our stdin with the number of its bytes, which go ahead of them. What does not
/// know its end, such as a pipe, is first read to it, into a file that has no
/// name. May block.
pub(super) fn sized_stdin() -> io::Result<(File, u64)> {
    let stat = fstat(stdio::stdin())?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        let at = seek(stdio::stdin(), SeekFrom::Current(0))?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let file = File::from(rustix::io::dup(stdio::stdin())?);
        return Ok((file, size.saturating_sub(at)));
    }
    let mut spool = File::from(nameless()?);
    let size = io::copy(&mut io::stdin().lock(), &mut spool)?;
    seek(&spool, SeekFrom::Start(0))?;
    Ok((spool, size))
}

/// Whether a person types what is copied.
pub(super) fn is_typed() -> bool {
    io::stdin().is_terminal()
}

fn nameless() -> io::Result<OwnedFd> {
    let folder = env::temp_dir();
    let private = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = open(&folder, flags, private) {
        return Ok(file);
    }
    // Not every file system knows files without a name.
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let folder = open(&folder, flags, Mode::empty())?;
    let name = super::write::unused_name();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(&folder, &name, flags, private)?;
    unlinkat(&folder, &name, rustix::fs::AtFlags::empty())?;
    Ok(file)
}
