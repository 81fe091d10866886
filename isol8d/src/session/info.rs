//! What is told of a session.

use std::time::Duration;

use isol8_core::{failure::Failure, session::SessionName};
use isol8_proto::v1::{SessionInfo, SessionState};

use super::{
    entry::{Doing, Entry},
    record::{Record, millis},
    store::Store,
};

/// A session that is there. `None`: it has no sandbox yet, or is being removed.
pub(super) fn of(
    entry: &Entry,
    store: &Store,
    name: &SessionName,
    size: Option<u64>,
) -> Option<SessionInfo> {
    let view = entry.view.borrow().clone();
    let record = store.get(view.sandbox.as_ref()?)?;
    if record.name.as_ref() != Some(name) {
        return None;
    }
    let (state, reason) = match &view.doing {
        Doing::Busy => (SessionState::Busy, String::new()),
        Doing::Idle | Doing::Nothing => (SessionState::Idle, String::new()),
        Doing::Starting => (SessionState::Starting, String::new()),
        Doing::Unreachable(failure) => (SessionState::Starting, Failure::to_string(failure)),
        Doing::Lost(reason) => (SessionState::Lost, reason.clone()),
    };
    let mut info = of_kept(&record, false);
    info.name = name.to_string();
    info.state = state.into();
    info.reason = reason;
    info.size_bytes = size;
    info.waiting = view.waiting;
    if state == SessionState::Busy {
        info.idle_ms = 0;
    }
    Some(info)
}

/// A sandbox without a name, whose run may still go on.
pub(super) fn of_kept(record: &Record, in_use: bool) -> SessionInfo {
    let (state, idle) = match in_use {
        true => (SessionState::Busy, Duration::ZERO),
        false => (SessionState::Idle, record.idle()),
    };
    SessionInfo {
        name: String::new(),
        runtime: record.key.runtime.to_string(),
        engine: record.key.engine.to_string(),
        idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
        sandbox_id: record.sandbox.to_string(),
        state: state.into(),
        size_bytes: None,
        waiting: 0,
        created_ms: millis(record.created),
        persist: record.persist,
        reason: record.lost.clone().unwrap_or_default(),
    }
}
