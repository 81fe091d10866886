//! `/health` and `/metrics`.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Response, StatusCode, header},
};
use isol8_proto::v1::StatusRequest;
use tokio::time::timeout;

use crate::{
    api::{self, Health},
    gateway::Shared,
    metrics::of_daemon,
};

/// A scrape must not wait for a daemon that hangs.
const STATUS_TIME: Duration = Duration::from_secs(3);

pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let version = shared.version.clone();
    api::json(
        StatusCode::OK,
        &Health {
            status: "ok",
            version,
        },
    )
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let mut admin = shared.daemon.admin();
    let status = timeout(STATUS_TIME, admin.status(StatusRequest {})).await;
    let status = status
        .ok()
        .and_then(Result::ok)
        .map(tonic::Response::into_inner);
    let text = shared.metrics.text() + &of_daemon(status.as_ref());
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
