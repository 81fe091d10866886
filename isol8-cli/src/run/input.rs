//! Our standard input on its way to the program.

use std::{
    io::{self, Read as _},
    thread,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// The daemon takes 256 KiB; a pipe rarely holds more than this.
const PIECE_BYTES: usize = 64 << 10;
/// The daemon's bound for one piece.
const MAX_PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for the program to read; then we stop reading.
const PIECES: usize = 4;

/// Data that is all there.
pub(super) fn ready(data: &Bytes) -> mpsc::Receiver<Bytes> {
    let pieces = data.len().div_ceil(MAX_PIECE_BYTES).max(1);
    let (sender, receiver) = mpsc::channel(pieces);
    for start in (0..data.len()).step_by(MAX_PIECE_BYTES) {
        let end = data.len().min(start + MAX_PIECE_BYTES);
        sender
            .try_send(data.slice(start..end))
            .expect("there is room for every piece");
    }
    receiver
}

/// Reads our own stdin on a thread of its own: a terminal cannot be read in any
/// other way without changing it for everybody who shares it. The thread ends
/// with its input or with the process; nothing waits for it.
pub(super) fn stream() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let spawned = thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read_all(&sender));
    // No thread, no input: the program sees the end of its stdin.
    drop(spawned);
    receiver
}

fn read_all(sender: &mpsc::Sender<Bytes>) {
    let mut stdin = io::stdin().lock();
    let mut buffer = BytesMut::new();
    loop {
        buffer.resize(PIECE_BYTES, 0);
        match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let piece = buffer.split_to(count).freeze();
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What cannot be read has ended, for the program as for us.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_data_comes_in_pieces_that_the_daemon_takes() {
        let data = Bytes::from(vec![7_u8; MAX_PIECE_BYTES * 2 + 1]);
        let mut receiver = ready(&data);
        let mut sizes = Vec::new();
        while let Some(piece) = receiver.recv().await {
            sizes.push(piece.len());
        }
        assert_eq!(sizes, [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 1]);
    }

    #[tokio::test]
    async fn no_data_is_the_end_at_once() {
        assert!(ready(&Bytes::new()).recv().await.is_none());
    }
}
