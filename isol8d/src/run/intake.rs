//! What an installer says, on its way to the client.

use std::pin::pin;

use bytes::Bytes;
use isol8_core::{mask::Secrets, output, request::RunRequest};

use crate::{
    install::transcript::Reader,
    outbox::{Channel, Outbox, WINDOW_BYTES},
};

/// Stands where a client was too slow.
const LOST: &[u8] = b"\n[isol8: some of the installer's output came too fast and is left out]\n";

/// Passes it on as standard error: masked, capped, and no faster than the client
/// takes it. What the client does not take in time is left out; the installer
/// does not wait for it.
#[derive(Debug)]
pub(super) struct Intake<'a> {
    outbox: &'a Outbox,
    stream: output::Stream,
    /// Bytes that may still be on their way to the client.
    window: u64,
    /// Of a buffered run.
    kept: Option<Vec<u8>>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(request: &RunRequest, secrets: &Secrets, outbox: &'a Outbox) -> Self {
        Self {
            outbox,
            stream: output::Stream::new(secrets, request.limits.max_output),
            window: WINDOW_BYTES,
            kept: request.buffered.then(Vec::new),
        }
    }

    /// Passes on what comes until `work` is done.
    ///
    /// # Cancellation
    /// As cancel safe as `work`.
    pub(super) async fn follow<T>(
        &mut self,
        text: &mut Reader,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            let has_room = self.window > 0 && self.outbox.has_room();
            tokio::select! {
                biased;
                done = &mut work => {
                    self.pass(text);
                    return done;
                }
                () = text.grown(), if has_room => self.pass(text),
                () = self.outbox.moved(), if !has_room => {}
            }
            self.window = (self.window + self.outbox.take_installer()).min(WINDOW_BYTES);
        }
    }

    fn pass(&mut self, text: &mut Reader) {
        let (bytes, lost) = text.take();
        if lost {
            self.send(Some(Bytes::from_static(LOST)));
        }
        let passed = self.stream.push(bytes);
        self.send(passed);
    }

    fn send(&mut self, bytes: Option<Bytes>) {
        let Some(bytes) = bytes else { return };
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&bytes);
            return;
        }
        self.window = self.window.saturating_sub(bytes.len() as u64);
        self.outbox.output(Channel::Installer, bytes);
    }

    /// The installer is done: what was held back leaves, and all of a buffered
    /// run.
    pub(super) fn finish(mut self) {
        let rest = self.stream.finish();
        self.send(rest);
        if let Some(kept) = self.kept.take() {
            self.outbox.output(Channel::Installer, kept.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::{FutureExt as _, StreamExt as _};
    use isol8_core::request::Secret;
    use isol8_proto::v1::{self, run_event::Event};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        install::transcript::Transcript,
        outbox::{Events, outbox},
    };

    fn request(buffered: bool) -> RunRequest {
        let start = v1::Start {
            runtime: v1::Runtime::Python.into(),
            buffered,
            ..Default::default()
        };
        crate::convert::run_request(start, &isol8_core::config::Config::default()).expect("good")
    }

    fn taken(events: &mut Events) -> String {
        let mut text = Vec::new();
        while let Some(Some(event)) = events.next().now_or_never() {
            match event.expect("no status").event {
                Some(Event::Stderr(bytes)) => text.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn secrets_are_masked_over_pieces() {
        for buffered in [false, true] {
            let secret = Secret("tops3cret".to_owned());
            let secrets = Secrets::new(&BTreeMap::from([("K".to_owned(), secret)]));
            let secrets = secrets.expect("long enough");
            let (outbox, mut events) = outbox(CancellationToken::new().drop_guard());
            let text = Transcript::new();
            let mut intake = Intake::new(&request(buffered), &secrets, &outbox);
            let mut reader = text.reader();
            text.add(b"fetching tops");
            intake.follow(&mut reader, async {}).await;
            text.add(b"3cret\n");
            intake.follow(&mut reader, async {}).await;
            if buffered {
                assert_eq!(taken(&mut events), "");
            }
            intake.finish();
            assert_eq!(taken(&mut events), "fetching ***\n");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_holds_nobody_up() {
        let (outbox, mut events) = outbox(CancellationToken::new().drop_guard());
        let text = Transcript::new();
        let mut intake = Intake::new(&request(false), &Secrets::default(), &outbox);
        let mut reader = text.reader();
        let work = async {
            for _ in 0..100 {
                text.add(&[b'x'; 64 << 10]);
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        intake.follow(&mut reader, work).await;
        intake.finish();
        let text = taken(&mut events);
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        assert!(text.contains("left out"));
    }
}
