//! `POST /execute/stream`: a run as server-sent events.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Response, header},
};
use bytes::Bytes;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::{Answer, execute};
use crate::{
    body::Place,
    execution::Execution,
    gateway::Shared,
    keys::Caller,
    narrator::{Narrator, Told},
};

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Answer {
    let (job, held) = execute::job(&shared, &caller, request).await?;
    let files = job.file_bytes();
    let room = shared.answers.reserve(&caller, files, &shared.bounds);
    let room = room.await?;
    let mut run = Execution::start(&shared, job, held);
    let every = shared.bounds.comment;
    // A run that waits for long is a stream that has begun.
    if let Ok(begun) = timeout(every, run.begun()).await {
        begun?;
    }
    let mut quiet = interval_at(Instant::now() + every, every);
    quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        run: Some(run),
        narrator: Narrator::default(),
        quiet,
        _room: room,
    };
    let body = futures_util::stream::unfold(events, |mut events| async {
        let text = events.next().await?;
        Some((Ok::<_, std::convert::Infallible>(text), events))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that hold answers back would make no stream of it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Events {
    /// Until its last event.
    run: Option<Execution>,
    narrator: Narrator,
    quiet: Interval,
    /// Until the last event, which may be large, is on its way.
    _room: Place,
}

impl Events {
    /// The next piece of the stream: at least one event or comment.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        while out.is_empty() {
            let run = self.run.as_mut()?;
            tokio::select! {
                event = run.next() => {
                    self.quiet.reset();
                    if event.is_last() {
                        self.run = None;
                    }
                    write(self.narrator.tell(event), &mut out);
                }
                _ = self.quiet.tick() => out.push_str(":\n\n"),
            }
        }
        Some(out.into())
    }
}

fn write(told: Vec<Told>, out: &mut String) {
    for one in told {
        match one {
            // JSON has no line break outside of strings, and escapes those within.
            Told::Event(json) => {
                out.push_str("data: ");
                out.push_str(&json);
                out.push('\n');
            }
            // For a person who looks on: no program's output, so no event.
            Told::Notice(notice) => {
                // Each of the three ends a line of a stream.
                for line in notice.replace("\r\n", "\n").split(['\n', '\r']) {
                    out.push_str(": ");
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_notice_is_taken_for_an_event() {
        let mut out = String::new();
        let notice = "one\rdata: {}\r\ndata: {}\ndata: {}";
        write(vec![Told::Notice(notice.to_owned())], &mut out);
        assert_eq!(out, ": one\n: data: {}\n: data: {}\n: data: {}\n\n");
    }
}
