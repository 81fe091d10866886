//! One request from its head to its record.
//!
//! The record is written when the value is dropped, so that it is written
//! exactly once whatever ends the request: an answer, a refusal, a client that
//! leaves, the end of the run.

use std::{
    fmt::Display,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use isol8_core::egress::record::{self, Action, Record};
use tokio::time::Instant;

use crate::{
    head::{Head, Refused, Target},
    lane::Revoked,
    meter::{Meter, Tally},
    session::{Log, OverBytes, Session},
};

/// The most of a path, and of a method, that a record holds, in bytes.
const MAX_LOGGED_BYTES: usize = 1 << 10;

pub(crate) struct Exchange {
    session: Arc<Session>,
    log: Log,
    at: SystemTime,
    began: Instant,
    method: String,
    host: String,
    port: u16,
    path: Option<String>,
    action: Action,
    reason: String,
    /// It came to its own end; nothing can cut it off any more.
    is_over: bool,
    /// New rules refuse where it goes.
    revoked: Revoked,
    tally: Arc<Tally>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    fn new(session: &Arc<Session>, log: &Log, method: &str) -> Self {
        Self {
            session: Arc::clone(session),
            log: Arc::clone(log),
            at: SystemTime::now(),
            began: Instant::now(),
            method: cut(method),
            host: String::new(),
            port: 0,
            path: None,
            action: Action::Block,
            reason: "not judged".to_owned(),
            is_over: false,
            revoked: Revoked::default(),
            tally: Arc::default(),
        }
    }

    /// A head that passed, on a connection that `revoked` may end.
    pub(crate) fn begin(session: &Arc<Session>, log: &Log, head: &Head, revoked: Revoked) -> Self {
        let mut exchange = Self::new(session, log, head.method.as_str());
        exchange.revoked = revoked;
        exchange.host = head.target.host().to_string();
        exchange.port = head.target.port();
        if let Target::Origin { path, .. } = &head.target {
            exchange.path = Some(cut(path.as_str()));
        }
        exchange
    }

    /// A head that was refused before anybody judged it.
    pub(crate) fn refused(session: &Arc<Session>, log: &Log, refused: &Refused) -> Self {
        let mut exchange = Self::new(session, log, &refused.method);
        exchange.host.clone_from(&refused.host);
        exchange.block(&refused.fault);
        exchange
    }

    /// A connection that was turned away before it could ask anything.
    pub(crate) fn turned_away(session: &Arc<Session>, log: &Log, reason: &str) {
        Self::new(session, log, "").block(reason);
    }

    /// It ends here, with a refusal.
    pub(crate) fn block(&mut self, reason: impl Display) {
        self.action = Action::Block;
        self.reason = reason.to_string();
        self.is_over = true;
    }

    /// It goes out.
    pub(crate) fn allow(&mut self, reason: impl Display) {
        self.action = Action::Allow;
        self.reason = reason.to_string();
    }

    /// It was allowed, and the origin was not reached.
    pub(crate) fn unreachable(&mut self, reason: impl Display) {
        self.allow(format_args!("unreachable: {reason}"));
        self.is_over = true;
    }

    /// It came to its end.
    pub(crate) fn finish(&mut self) {
        self.is_over = true;
    }

    /// It ends here, and that was not its end.
    pub(crate) fn cut_off(&mut self, why: impl Display) {
        if !self.is_over {
            self.reason = format!("cut off: {why}");
            self.is_over = true;
        }
    }

    /// The same, for the reason that can be seen from here.
    fn cut_off_somehow(&mut self) {
        if self.session.is_over_bytes() {
            self.cut_off(OverBytes);
        } else if self.session.ended.is_cancelled() {
            self.cut_off("the run ended");
        } else if self.revoked.is_set() {
            self.cut_off("the policy changed");
        } else {
            self.cut_off("the connection broke");
        }
    }

    /// Counts for this request and for the run.
    pub(crate) fn meter(&self) -> Meter {
        Meter {
            tally: Arc::clone(&self.tally),
            session: Arc::clone(&self.session),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_over {
            self.cut_off_somehow();
        }
        let since = self
            .at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let record = Record {
            timestamp_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            method: std::mem::take(&mut self.method),
            host: std::mem::take(&mut self.host),
            port: self.port,
            path: self.path.take(),
            action: self.action,
            reason: std::mem::take(&mut self.reason),
            bytes_in: self.tally.bytes_in.load(Relaxed),
            bytes_out: self.tally.bytes_out.load(Relaxed),
            duration: self.began.elapsed(),
        };
        self.session
            .finish(record, self.action == Action::Block, &self.log);
    }
}

fn cut(text: &str) -> String {
    record::cut(text, MAX_LOGGED_BYTES)
}
