//! `/file`: one file of a session.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, Uri},
};
use data_encoding::BASE64;
use isol8_proto::v1::FileKind;

use super::{Answer, call, query, required};
use crate::{
    answering::Answering,
    api::{self, Done, FileResult, PutFileBody},
    body,
    files::{self, MAX_BYTES, check_path},
    gateway::Shared,
    job::{SessionId, decode},
    keys::Caller,
    refusal::Refusal,
};

pub(super) async fn write(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let held = body::read(&caller, &parts.headers, body, &shared.room, &shared.bounds).await?;
    let asked: PutFileBody = body::parse(&held.bytes)?;
    let session = SessionId::parse("sessionId", &asked.session_id)?.name(&caller);
    check_path("path", &asked.path)?;
    let content = decode("content", &asked.content)?;
    call(&shared, &caller, async {
        files::put(&shared.daemon, &session, &asked.path, content.into()).await?;
        Ok(api::json(StatusCode::OK, &Done { ok: true }))
    })
    .await
}

pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    uri: Uri,
) -> Answer {
    let asked = query(&uri, &["sessionId", "path"])?;
    let session = SessionId::parse("sessionId", required(&asked, "sessionId")?)?.name(&caller);
    let path = required(&asked, "path")?;
    check_path("path", path)?;
    call(&shared, &caller, async {
        let place = shared
            .answers
            .reserve(&caller, MAX_BYTES, &shared.bounds)
            .await?;
        let mut found = files::get(&shared.daemon, &session, path, MAX_BYTES).await?;
        match found.files.remove("") {
            Some(bytes) if found.kind == FileKind::File => {
                let content = BASE64.encode(&bytes);
                let answer = api::json(StatusCode::OK, &FileResult { content });
                Ok(answer.map(|body| Body::new(Answering::new(body, place))))
            }
            _ => {
                let shown = path.escape_debug();
                Err(Refusal::invalid(format!(
                    "`path`: `{shown}` is not a regular file"
                )))
            }
        }
    })
    .await
}
