//! The paths of the gateway, one file for each kind.

mod execute;
mod file;
mod openapi;
mod sessions;
mod socket;
mod stream;
mod system;
pub(crate) mod ui;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Response, StatusCode},
    middleware,
    routing::{delete, get, post},
};
use tokio::time::timeout;

use crate::{gateway::Shared, guard, job::SessionId, keys::Caller, refusal::Refusal};

/// Everything that the gateway answers.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route(guard::HEALTH, get(system::health))
        .route("/execute", post(execute::execute))
        .route("/execute/stream", post(stream::stream))
        .route("/execute/ws", get(socket::upgrade))
        .route("/file", get(file::read).post(file::write))
        .route("/sessions", get(sessions::list))
        .route("/session/{id}", delete(sessions::remove))
        .route("/cleanup", post(sessions::cleanup))
        .route("/metrics", get(system::metrics))
        .route("/openapi.json", get(openapi::document))
        .merge(ui::routes())
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such path") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path knows no such method",
            )
        })
        .with_state(Arc::clone(shared))
        .layer(middleware::from_fn_with_state(
            Arc::clone(shared),
            guard::admit,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(shared),
            guard::observe,
        ))
}

type Answer = Result<Response<Body>, Refusal>;

/// The answer, or 504 when it takes longer.
async fn within(time: Duration, answer: impl Future<Output = Answer>) -> Answer {
    timeout(time, answer).await.unwrap_or_else(|_| {
        let message = "there was no answer in time";
        Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, message).kind("engine_timeout"))
    })
}

/// As [`within`], also ended by the gateway's own end.
async fn call(shared: &Shared, caller: &Caller, answer: impl Future<Output = Answer>) -> Answer {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => Err(Refusal::stopping()),
        answer = within(shared.bounds.answer, answer) => {
            answer.map_err(|refusal| SessionId::told(refusal, caller))
        }
    }
}

/// A page may be asked for with these fields alone.
fn query(uri: &axum::http::Uri, fields: &[&str]) -> Result<Vec<(String, String)>, Refusal> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let pairs: Vec<_> = pairs.into_owned().collect();
    for (index, (name, _)) in pairs.iter().enumerate() {
        let shown = name.escape_debug();
        if !fields.contains(&name.as_str()) {
            return Err(Refusal::invalid(format!("`{shown}`: unknown parameter")));
        }
        if pairs[..index].iter().any(|(other, _)| other == name) {
            return Err(Refusal::invalid(format!("`{shown}`: given twice")));
        }
    }
    Ok(pairs)
}

/// The value of a parameter that must be there.
fn required<'a>(query: &'a [(String, String)], field: &str) -> Result<&'a str, Refusal> {
    let found = query.iter().find(|(name, _)| name == field);
    let missing = || Refusal::invalid(format!("`{field}`: missing parameter"));
    found.map(|(_, value)| value.as_str()).ok_or_else(missing)
}
