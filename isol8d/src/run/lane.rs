//! One output stream of a run: from init's bytes to the client's.

use bytes::Bytes;
use isol8_core::{mask::Secrets, output};

use crate::audit::Head;
use crate::outbox::{Channel, Outbox, WINDOW_BYTES};

/// What a buffered run sends at once at its end.
const PIECE_BYTES: usize = 256 << 10;

/// Init sent more than its credit allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OverCredit;

/// Masks, caps, counts, and keeps the account of credit.
#[derive(Debug)]
pub(super) struct Lane {
    channel: Channel,
    stream: output::Stream,
    /// Bytes that init may still send.
    window: u64,
    /// Bytes that left before they were paid for: the masker held them back, and
    /// they counted as taken then.
    ahead: u64,
    /// Of a buffered run.
    kept: Option<Vec<u8>>,
    /// For the record of the run.
    head: Head,
}

impl Lane {
    pub(super) fn new(
        channel: Channel,
        secrets: &Secrets,
        max_output: u64,
        buffered: bool,
    ) -> Self {
        Self {
            channel,
            stream: output::Stream::new(secrets, max_output),
            window: WINDOW_BYTES,
            ahead: 0,
            kept: buffered.then(Vec::new),
            head: Head::default(),
        }
    }

    /// Takes what init sent.
    pub(super) fn take(&mut self, bytes: Bytes, outbox: &Outbox) -> Result<(), OverCredit> {
        let came = bytes.len() as u64;
        self.window = self.window.checked_sub(came).ok_or(OverCredit)?;
        let passed = self.stream.push(bytes);
        let passed = self.pass(passed, outbox);
        // What goes to nobody needs nobody to take it.
        let settled = came + self.ahead;
        self.ahead = passed.saturating_sub(settled);
        let free = settled.saturating_sub(passed);
        if free > 0 {
            outbox.count_as_taken(self.channel, free);
        }
        Ok(())
    }

    /// Init has been told that it may send so much more.
    pub(super) fn granted(&mut self, credit: u64) {
        self.window += credit;
    }

    /// The program is gone: what was held back leaves, and all of a buffered run.
    pub(super) fn finish(&mut self, outbox: &Outbox) {
        let rest = self.stream.finish();
        self.pass(rest, outbox);
        if let Some(kept) = self.kept.take() {
            let mut kept = Bytes::from(kept);
            while !kept.is_empty() {
                let piece = kept.split_to(kept.len().min(PIECE_BYTES));
                outbox.output(self.channel, piece);
            }
        }
    }

    /// Collects the beginning of what leaves in `head`.
    pub(super) fn collect(&mut self, head: Head) {
        self.head = head;
    }

    /// What was collected.
    pub(super) fn take_head(&mut self) -> Head {
        std::mem::take(&mut self.head)
    }

    /// Bytes that the program wrote.
    pub(super) fn written_bytes(&self) -> u64 {
        self.stream.written_bytes()
    }

    /// Something was dropped.
    pub(super) fn is_truncated(&self) -> bool {
        self.stream.is_truncated()
    }

    /// Gives how many bytes went into the outbox.
    fn pass(&mut self, bytes: Option<Bytes>, outbox: &Outbox) -> u64 {
        let Some(bytes) = bytes else { return 0 };
        self.head.push(&bytes);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&bytes);
            return 0;
        }
        let passed = bytes.len() as u64;
        outbox.output(self.channel, bytes);
        passed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::{FutureExt, StreamExt};
    use isol8_core::request::Secret;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::outbox::{Events, outbox};

    fn secrets(value: Option<&str>) -> Secrets {
        let values = value.map(|value| ("K".to_owned(), Secret(value.to_owned())));
        Secrets::new(&BTreeMap::from_iter(values)).expect("long enough")
    }

    fn pair() -> (Outbox, Events) {
        outbox(CancellationToken::new().drop_guard())
    }

    fn take_all(events: &mut Events) {
        while let Some(Some(event)) = events.next().now_or_never() {
            assert!(event.is_ok());
        }
    }

    /// All credit comes back for all bytes, whatever became of them.
    #[track_caller]
    fn settles(secret: Option<&str>, max_output: u64, buffered: bool, piece: &[u8]) {
        let (outbox, mut events) = pair();
        let secrets = secrets(secret);
        let mut lane = Lane::new(Channel::Stdout, &secrets, max_output, buffered);
        let mut sent = 0;
        let mut granted = 0;
        while sent < 8 * WINDOW_BYTES {
            lane.take(Bytes::copy_from_slice(piece), &outbox)
                .expect("within the credit");
            sent += piece.len() as u64;
            take_all(&mut events);
            let (stdout, stderr) = outbox.take_credit();
            assert_eq!(stderr, 0);
            lane.granted(stdout);
            granted += stdout;
            assert!(granted <= sent, "credit for what never came");
        }
        assert!(sent - granted <= WINDOW_BYTES, "credit was lost");
    }

    #[test]
    fn credit_comes_back_for_everything() {
        let piece = vec![b'x'; 64 << 10];
        settles(None, u64::MAX, false, &piece);
        settles(None, 1000, false, &piece);
        settles(None, 1000, true, &piece);
        settles(Some("secret"), u64::MAX, false, &piece);
        settles(Some("secret"), u64::MAX, false, &b"secret".repeat(10_000));
        settles(Some("secret"), 1000, false, &b"a secr".repeat(10_001));
        settles(Some("secret"), u64::MAX, false, &b"sec".repeat(3333));
    }

    #[test]
    fn more_than_the_credit_is_a_breach() {
        let (outbox, _events) = pair();
        let mut lane = Lane::new(Channel::Stderr, &secrets(None), u64::MAX, false);
        let half = Bytes::from(vec![0; usize::try_from(WINDOW_BYTES / 2).expect("it fits")]);
        assert_eq!(lane.take(half.clone(), &outbox), Ok(()));
        assert_eq!(lane.take(half, &outbox), Ok(()));
        let more = Bytes::from_static(b"x");
        assert_eq!(lane.take(more, &outbox), Err(OverCredit));
    }
}
