//! What every request passes before its path is looked at: it gets an id, it must
//! have been meant for this gateway, and its key must be known.

mod origin;

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
    middleware::Next,
    response::IntoResponse,
};
use data_encoding::HEXLOWER;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    answering::Answering,
    gateway::Shared,
    keys::{Caller, revoked},
    refusal::Refusal,
    routes::ui,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_CHARS: usize = 64;
/// Open to everybody.
pub(crate) const HEALTH: &str = "/health";

/// Gives the request its id, counts and logs it. A handler that panics is a 500.
pub(crate) async fn observe(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("other", MatchedPath::as_str).to_owned();
    let began = Instant::now();
    let span = tracing::info_span!("request", request_id = %id, %method, route);
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = answered.instrument(span.clone()).await.unwrap_or_else(|_| {
        tracing::error!(request_id = %id, "a handler panicked");
        Refusal::internal().into_response()
    });
    let status = response.status().as_u16();
    let elapsed = began.elapsed();
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| tracing::info!(status, elapsed_ms, "answered"));
    shared
        .metrics
        .answered(&route, method.as_str(), status, elapsed);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The client's own id where it is a plain one: it can then find its request in
/// our log.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    if let Some(id) = given
        && (1..=MAX_ID_CHARS).contains(&id.len())
        && id.chars().all(plain)
    {
        return id.to_owned();
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the kernel's random source answers");
    HEXLOWER.encode(&random)
}

/// Turns away what was not meant for this gateway, and who has no key.
pub(crate) async fn admit(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    if let Err(refusal) = origin::check(request.headers(), request.uri(), &shared) {
        return refusal.into_response();
    }
    let path = request.uri().path();
    if path != HEALTH && !ui::is_open(path) {
        match caller(request.headers(), &shared) {
            Ok(caller) => {
                tracing::debug!(key = caller.name(), "known");
                let gone = caller.revoked().clone();
                let Some(place) = shared.requests.try_take(&caller, 1) else {
                    return Refusal::busy("too many requests of this key").into_response();
                };
                request.extensions_mut().insert(caller);
                return tokio::select! {
                    biased;
                    response = next.run(request) => {
                        response.map(|body| Body::new(Answering::new(body, place)))
                    }
                    // What it asked for is dropped, and so ended.
                    () = gone.cancelled() => revoked().into_response(),
                };
            }
            Err(refusal) => return refusal.into_response(),
        }
    }
    next.run(request).await
}

fn caller(headers: &HeaderMap, shared: &Shared) -> Result<Arc<Caller>, Refusal> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = given.next() else {
        let message = "Missing Authorization header";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
    };
    // Of two, a proxy before us may have looked at the other one.
    let only = Some(first).filter(|_| given.next().is_none());
    let key = only.and_then(|given| {
        let (scheme, key) = given.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let found = key.and_then(|key| shared.keys.find(key, Timestamp::now()));
    found.ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "Invalid API key"))
}
