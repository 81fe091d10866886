//! What a server answers in place of a WebSocket.

use std::time::Duration;

use hyper::{
    StatusCode,
    header::{LOCATION, RETRY_AFTER},
    http::response::Parts,
};
use isol8_core::{
    egress::record::cut,
    failure::{Failure, FailureKind},
};
use isol8_proto::v1::ErrorDetail;
use serde::Deserialize;

use super::Remote;
use crate::connect::detailed;

/// Of somebody else's words.
const MAX_SHOWN_BYTES: usize = 500;

/// An error as a gateway tells it.
#[derive(Debug, Deserialize)]
struct Told {
    error: String,
    kind: Option<String>,
    #[serde(default)]
    causes: Vec<String>,
    hint: Option<String>,
}

/// The failure behind an answer.
pub(super) fn unwelcome(remote: &Remote, head: &Parts, body: &[u8]) -> Failure {
    let failure = match serde_json::from_slice::<Told>(body) {
        Ok(told) => of_gateway(remote, head.status, told),
        Err(_) => of_stranger(remote, head),
    };
    let seconds = head.headers.get(RETRY_AFTER);
    let seconds = seconds.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    match (failure.retry_after, seconds) {
        (None, Some(seconds)) => failure.retry_after(Duration::from_secs(seconds)),
        _ => failure,
    }
}

fn of_gateway(remote: &Remote, status: StatusCode, told: Told) -> Failure {
    let address = &remote.address;
    let error = cut(&told.error, MAX_SHOWN_BYTES);
    match (status, &told.kind) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => {
            let message = format!("`{address}` does not take this API key");
            Failure::new(FailureKind::Forbidden, message)
                .cause(error)
                .hint("give another one with `--key <key>`, or set ISOL8_API_KEY")
        }
        (StatusCode::FORBIDDEN, Some(_)) => {
            let is_name = error.starts_with("`Host`");
            let message = format!("`{address}` turns us away");
            let failure = Failure::new(FailureKind::Forbidden, message).cause(error);
            match is_name {
                true => failure.hint("`isol8 serve --allow-host <name>` there tells it its name"),
                false => failure,
            }
        }
        (_, Some(kind)) if kind != FailureKind::InvalidRequest.name() => detailed(ErrorDetail {
            kind: kind.clone(),
            message: format!("`{address}`: {error}"),
            causes: told.causes,
            hint: told.hint.unwrap_or_default(),
            retry_after_ms: 0,
        }),
        (StatusCode::NOT_FOUND, _) => no_gateway(remote, status),
        _ => no_websocket(remote).cause(error),
    }
}

/// Something that is no gateway, or stands before one.
fn of_stranger(remote: &Remote, head: &Parts) -> Failure {
    let status = head.status;
    if status.is_redirection() {
        let location = head.headers.get(LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let location = cut(location.unwrap_or_default(), MAX_SHOWN_BYTES);
        return no_gateway(remote, status)
            .cause(format!("it sends us to `{location}`"))
            .hint("give `--host` the address where the gateway really is");
    }
    match status {
        StatusCode::UPGRADE_REQUIRED => no_websocket(remote).cause(answered(status)),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let message = format!("`{}` has no room for us", remote.address);
            Failure::new(FailureKind::AtCapacity, message).cause(answered(status))
        }
        status if status.is_server_error() => remote
            .unreachable()
            .cause(answered(status))
            .hint("it may be a proxy whose isol8 gateway is gone"),
        _ => no_gateway(remote, status),
    }
}

fn answered(status: StatusCode) -> String {
    format!("it answered {status}")
}

fn no_gateway(remote: &Remote, status: StatusCode) -> Failure {
    let message = format!("no isol8 gateway answers at `{}`", remote.address);
    Failure::new(FailureKind::NotFound, message)
        .cause(answered(status))
        .hint("`isol8 serve` is one; `--host` takes the path before it too")
}

/// The other end is no WebSocket, or something in between lets none through.
pub(super) fn no_websocket(remote: &Remote) -> Failure {
    let message = format!("`{}` opens no WebSocket", remote.address);
    Failure::new(FailureKind::Unsupported, message)
        .hint("a proxy before it has to pass `Upgrade` and `Connection` on")
}

/// It takes our WebSocket, and would not understand us.
pub(super) fn other_version(remote: &Remote) -> Failure {
    let message = format!("`{}` does not know remote runs", remote.address);
    Failure::new(FailureKind::Unsupported, message)
        .cause("it is of another version than this command line")
        .hint("install the same version of isol8 at both ends")
}
