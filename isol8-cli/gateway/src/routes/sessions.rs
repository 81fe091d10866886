//! `/sessions`, `/session/{id}` and `/cleanup`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{StatusCode, Uri},
};
use isol8_proto::v1::{
    CleanupRequest, ListSessionsRequest, RemoveSessionRequest, SessionInfo, SessionState,
};
use jiff::Timestamp;

use super::{Answer, call, query};
use crate::{
    api::{self, CleanupBody, CleanupResult, Done, SessionEntry, SessionList},
    body,
    gateway::Shared,
    job::SessionId,
    keys::Caller,
    refusal::Refusal,
};

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
) -> Answer {
    call(&shared, &caller, async {
        let request = ListSessionsRequest { sizes: false };
        let listed = shared.daemon.sessions().list(request).await?.into_inner();
        let now = Timestamp::now();
        let own = listed
            .sessions
            .into_iter()
            .filter_map(|info| entry(info, &caller, now));
        let sessions = own.collect();
        Ok(api::json(StatusCode::OK, &SessionList { sessions }))
    })
    .await
}

/// `None` for a session of somebody else.
fn entry(info: SessionInfo, caller: &Caller, now: Timestamp) -> Option<SessionEntry> {
    let id = SessionId::of_name(&info.name, caller)?;
    let last = now.checked_sub(Duration::from_millis(info.idle_ms));
    Some(SessionEntry {
        id: id.to_string(),
        is_active: info.state() == SessionState::Busy,
        last_accessed_at: format!("{:.3}", last.unwrap_or(Timestamp::UNIX_EPOCH)),
        runtime: info.runtime,
    })
}

pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Answer {
    let Path(id) = id.map_err(|_| Refusal::invalid("`id`: no text in UTF-8"))?;
    let asked = query(&uri, &["force"])?;
    let force = match asked.first().map(|(_, value)| value.as_str()) {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(_) => return Err(Refusal::invalid("`force`: use `true` or `false`")),
    };
    let name = SessionId::parse("id", &id)?.name(&caller);
    call(&shared, &caller, async {
        let request = RemoveSessionRequest { name, force };
        shared.daemon.sessions().remove(request).await?;
        Ok(api::json(StatusCode::OK, &Done { ok: true }))
    })
    .await
}

pub(super) async fn cleanup(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Answer {
    // It takes sessions and warm sandboxes of everybody behind this gateway.
    if !caller.is_admin() {
        return Err(Refusal::forbidden("this key may not clean up"));
    }
    let (parts, body) = request.into_parts();
    let held = body::read(&caller, &parts.headers, body, &shared.room, &shared.bounds).await?;
    let asked: CleanupBody = match held.bytes.is_empty() {
        true => CleanupBody::default(),
        false => body::parse(&held.bytes)?,
    };
    call(&shared, &caller, async {
        let request = CleanupRequest {
            dry_run: false,
            images: asked.images,
        };
        let items = shared
            .daemon
            .admin()
            .cleanup(request)
            .await?
            .into_inner()
            .items;
        let failed = items.iter().filter(|item| !item.error.is_empty()).count();
        let removed = items.len() - failed;
        Ok(api::json(
            StatusCode::OK,
            &CleanupResult { removed, failed },
        ))
    })
    .await
}
