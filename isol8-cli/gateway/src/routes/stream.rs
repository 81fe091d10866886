//! `POST /execute/stream`: a run as server-sent events.

mod text;

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Response, header},
};
use bytes::Bytes;
use data_encoding::BASE64;
use isol8_proto::v1::Phase;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::{Answer, execute};
use crate::{
    api::{StreamEvent, StreamEventType, StreamPhase},
    execution::{Event, Execution},
    gateway::Shared,
    keys::Caller,
    refusal::Refusal,
};

use text::{Decoder, Piece};

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Answer {
    let (job, mut held) = execute::job(&shared, &caller, request).await?;
    let files = job.file_bytes();
    held.push(shared.answers.reserve(files, &shared.bounds).await?);
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
        phase: StreamPhase::Setup,
        stdout: Decoder::default(),
        stderr: Decoder::default(),
        quiet,
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
    phase: StreamPhase,
    stdout: Decoder,
    stderr: Decoder,
    quiet: Interval,
}

impl Events {
    /// The next piece of the stream: at least one event or comment.
    async fn next(&mut self) -> Option<Bytes> {
        let run = self.run.as_mut()?;
        let mut out = String::new();
        while out.is_empty() {
            tokio::select! {
                event = run.next() => {
                    self.quiet.reset();
                    let last = matches!(event, Event::Ended(_) | Event::Failed(_));
                    Self::write(
                        event,
                        &mut self.phase,
                        (&mut self.stdout, &mut self.stderr),
                        &mut out,
                    );
                    if last {
                        self.run = None;
                        break;
                    }
                }
                _ = self.quiet.tick() => out.push_str(":\n\n"),
            }
        }
        Some(out.into())
    }

    fn write(
        event: Event,
        phase: &mut StreamPhase,
        (stdout, stderr): (&mut Decoder, &mut Decoder),
        out: &mut String,
    ) {
        let mut output = |kind, pieces: Vec<Piece>, phase| {
            for piece in pieces {
                push(
                    out,
                    &StreamEvent {
                        data_base64: piece.bytes.map(|bytes| BASE64.encode(&bytes)),
                        ..plain(kind, piece.text, phase)
                    },
                );
            }
        };
        match event {
            Event::Phase(next) => {
                *phase = match next {
                    Phase::Install => StreamPhase::Install,
                    Phase::Code => StreamPhase::Code,
                    Phase::Unspecified | Phase::Queued | Phase::Setup => StreamPhase::Setup,
                }
            }
            Event::Accepted => {}
            Event::Stdout(bytes) => {
                *phase = running(*phase);
                output(StreamEventType::Stdout, stdout.push(&bytes), *phase);
            }
            Event::Stderr(bytes) => {
                *phase = running(*phase);
                output(StreamEventType::Stderr, stderr.push(&bytes), *phase);
            }
            Event::Notice(notice) => {
                // For a person who looks on: no program's output, so no event.
                for line in notice.lines() {
                    out.push_str(": ");
                    out.push_str(line);
                    out.push('\n');
                }
                out.push('\n');
            }
            Event::Ended(ended) => {
                *phase = running(*phase);
                output(StreamEventType::Stdout, stdout.finish(), *phase);
                output(StreamEventType::Stderr, stderr.finish(), *phase);
                let last = match ended.result() {
                    Ok(result) => {
                        let code = result.exit_code.to_string();
                        StreamEvent {
                            result: Some(Box::new(result)),
                            ..plain(StreamEventType::Exit, code, *phase)
                        }
                    }
                    Err(refusal) => failed(refusal, *phase),
                };
                push(out, &last);
            }
            Event::Failed(refusal) => {
                output(StreamEventType::Stdout, stdout.finish(), *phase);
                output(StreamEventType::Stderr, stderr.finish(), *phase);
                push(out, &failed(refusal, *phase));
            }
        }
    }
}

/// The phase of something that only a program or an installer does: the daemon
/// tells of the program only where an installer was before it.
fn running(told: StreamPhase) -> StreamPhase {
    match told {
        StreamPhase::Install => told,
        StreamPhase::Setup | StreamPhase::Code => StreamPhase::Code,
    }
}

fn plain(kind: StreamEventType, data: String, phase: StreamPhase) -> StreamEvent {
    StreamEvent {
        kind,
        data,
        data_base64: None,
        phase,
        result: None,
        error: None,
    }
}

fn failed(refusal: Refusal, phase: StreamPhase) -> StreamEvent {
    let data = refusal.body.error.clone();
    StreamEvent {
        error: Some(Box::new(refusal.body)),
        ..plain(StreamEventType::Error, data, phase)
    }
}

fn push(out: &mut String, event: &StreamEvent) {
    let json = serde_json::to_string(event).expect("our own values are JSON");
    out.push_str("data: ");
    // JSON has no line break outside of strings, and escapes those within.
    out.push_str(&json);
    out.push_str("\n\n");
}
