//! The events of a run as those who look on are told them.

mod text;

use data_encoding::BASE64;
use isol8_proto::v1::Phase;

use crate::{
    api::{StreamEvent, StreamEventType, StreamPhase},
    execution::Event,
    refusal::Refusal,
};

use text::{Decoder, Piece};

/// What is said.
#[derive(Debug)]
pub(crate) enum Told {
    /// JSON of one event.
    Event(String),
    /// A line for a person.
    Notice(String),
}

/// Tells one run.
#[derive(Debug)]
pub(crate) struct Narrator {
    phase: StreamPhase,
    stdout: Decoder,
    stderr: Decoder,
}

impl Default for Narrator {
    fn default() -> Self {
        Self {
            phase: StreamPhase::Setup,
            stdout: Decoder::default(),
            stderr: Decoder::default(),
        }
    }
}

impl Narrator {
    /// What there is to say now, which may be nothing.
    pub(crate) fn tell(&mut self, event: Event) -> Vec<Told> {
        let mut told = Vec::new();
        match event {
            Event::Accepted => {}
            Event::Phase(next) => {
                self.phase = match next {
                    Phase::Install => StreamPhase::Install,
                    Phase::Code => StreamPhase::Code,
                    Phase::Unspecified | Phase::Queued | Phase::Setup => StreamPhase::Setup,
                }
            }
            Event::Stdout(bytes) => {
                self.phase = running(self.phase);
                let pieces = self.stdout.push(&bytes);
                self.output(StreamEventType::Stdout, pieces, &mut told);
            }
            Event::Stderr(bytes) => {
                self.phase = running(self.phase);
                let pieces = self.stderr.push(&bytes);
                self.output(StreamEventType::Stderr, pieces, &mut told);
            }
            Event::Notice(notice) => told.push(Told::Notice(notice)),
            Event::Ended(ended) => {
                self.phase = running(self.phase);
                self.finish(&mut told);
                told.push(match ended.result() {
                    Ok(result) => {
                        let code = result.exit_code.to_string();
                        say(&StreamEvent {
                            result: Some(Box::new(result)),
                            ..plain(StreamEventType::Exit, code, self.phase)
                        })
                    }
                    Err(refusal) => failed(refusal, self.phase),
                });
            }
            Event::Failed(refusal) => {
                self.finish(&mut told);
                told.push(failed(refusal, self.phase));
            }
        }
        told
    }

    /// What is left of both streams.
    fn finish(&mut self, told: &mut Vec<Told>) {
        let pieces = self.stdout.finish();
        self.output(StreamEventType::Stdout, pieces, told);
        let pieces = self.stderr.finish();
        self.output(StreamEventType::Stderr, pieces, told);
    }

    fn output(&self, kind: StreamEventType, pieces: Vec<Piece>, told: &mut Vec<Told>) {
        for piece in pieces {
            told.push(say(&StreamEvent {
                data_base64: piece.bytes.map(|bytes| BASE64.encode(&bytes)),
                ..plain(kind, piece.text, self.phase)
            }));
        }
    }
}

fn say(event: &StreamEvent) -> Told {
    Told::Event(serde_json::to_string(event).expect("our own values are JSON"))
}

/// The last event of a run that did not take place.
pub(crate) fn failed(refusal: Refusal, phase: StreamPhase) -> Told {
    let data = refusal.body.error.clone();
    say(&StreamEvent {
        error: Some(Box::new(refusal.body)),
        ..plain(StreamEventType::Error, data, phase)
    })
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
