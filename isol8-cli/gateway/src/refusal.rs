//! Everything that is no success: which status a failure has, in one place.

pub(crate) mod hint;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use isol8_proto::v1::ErrorDetail;
use prost::Message as _;
use tonic::Status;

use crate::api::ErrorBody;

/// When the daemon does not say itself.
const RETRY_AFTER_SECS: u64 = 1;

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) body: ErrorBody,
    retry_after_secs: Option<u64>,
}

impl Refusal {
    /// An error with nothing but a message.
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody {
                error: error.into(),
                kind: None,
                causes: Vec::new(),
                hint: None,
            },
            retry_after_secs: None,
        }
    }

    /// 400.
    pub(crate) fn invalid(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 403 of a rule, which the message names.
    pub(crate) fn forbidden(error: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, error).kind("forbidden")
    }

    /// 429, worth trying again.
    pub(crate) fn busy(error: impl Into<String>) -> Self {
        let mut refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, error).kind("at_capacity");
        refusal.retry_after_secs = Some(RETRY_AFTER_SECS);
        refusal
    }

    /// 503 of a gateway that goes down.
    pub(crate) fn stopping() -> Self {
        let message = "the gateway is shutting down";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).kind("shutting_down")
    }

    /// 500: a bug.
    pub(crate) fn internal() -> Self {
        let message = "the gateway failed; its log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).kind("internal")
    }

    /// The same with a stable name of its class.
    pub(crate) fn kind(mut self, kind: &str) -> Self {
        self.body.kind = Some(kind.to_owned());
        self
    }

    /// The same with what to do about it.
    pub(crate) fn hint(mut self, hint: &str) -> Self {
        self.body.hint = Some(hint.to_owned());
        self
    }

    /// The same without the beginning that the names of the caller's sessions have
    /// for the daemon alone.
    pub(crate) fn without(mut self, prefix: &str) -> Self {
        let body = &mut self.body;
        let hint = body.hint.iter_mut();
        for text in body.causes.iter_mut().chain(hint).chain([&mut body.error]) {
            if text.contains(prefix) {
                *text = text.replace(prefix, "");
            }
        }
        self
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The same for a client that speaks as the daemon does.
    pub(crate) fn detail(self) -> ErrorDetail {
        let kind = self.body.kind.unwrap_or_else(|| {
            let is_theirs = self.status.is_client_error();
            let kind = if is_theirs {
                "invalid_request"
            } else {
                "internal"
            };
            kind.to_owned()
        });
        ErrorDetail {
            kind,
            message: self.body.error,
            causes: self.body.causes,
            hint: self.body.hint.unwrap_or_default(),
            retry_after_ms: self.retry_after_secs.unwrap_or_default() * 1000,
        }
    }

    /// What the daemon said in place of an answer.
    pub(crate) fn of_daemon(status: &Status) -> Self {
        if !status.details().is_empty()
            && let Ok(detail) = ErrorDetail::decode(status.details())
        {
            return Self::of_detail(detail);
        }
        if std::error::Error::source(status).is_some() {
            let message = "the isol8 daemon does not answer";
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, message).kind("engine_unreachable");
        }
        let message = format!("the daemon refused the request: {}", status.message());
        Self::new(StatusCode::BAD_GATEWAY, message).kind("internal")
    }

    fn of_detail(detail: ErrorDetail) -> Self {
        let status = status_of(&detail.kind);
        let again = status == StatusCode::TOO_MANY_REQUESTS
            || (status == StatusCode::SERVICE_UNAVAILABLE && detail.retry_after_ms > 0);
        let after = detail.retry_after_ms.div_ceil(1000).max(RETRY_AFTER_SECS);
        Self {
            status,
            body: ErrorBody {
                error: detail.message,
                kind: Some(detail.kind),
                causes: detail.causes,
                hint: Some(hint::in_fields(&detail.hint)).filter(|hint| !hint.is_empty()),
            },
            retry_after_secs: again.then_some(after),
        }
    }
}

/// The status of a failure's kind. One that is not known is of a newer daemon.
fn status_of(kind: &str) -> StatusCode {
    match kind {
        "invalid_request" | "unsupported" | "not_yet" => StatusCode::BAD_REQUEST,
        "forbidden" => StatusCode::FORBIDDEN,
        "not_found" => StatusCode::NOT_FOUND,
        "session_mismatch" | "session_busy" | "session_lost" => StatusCode::CONFLICT,
        "no_space" => StatusCode::PAYLOAD_TOO_LARGE,
        "at_capacity" => StatusCode::TOO_MANY_REQUESTS,
        "shutting_down" | "engine_unreachable" | "egress_unavailable" | "host_lacks" => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        "engine_timeout" => StatusCode::GATEWAY_TIMEOUT,
        // The engine, its images and the registries are behind the daemon.
        _ => StatusCode::BAD_GATEWAY,
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::of_daemon(&status)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response = crate::api::json(self.status, &self.body);
        if let Some(seconds) = self.retry_after_secs {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use isol8_core::failure::FailureKind as Kind;

    use super::*;

    #[test]
    fn every_kind_has_the_status_of_its_meaning() {
        let table = [
            (
                400,
                vec![Kind::InvalidRequest, Kind::NotYet, Kind::Unsupported],
            ),
            (403, vec![Kind::Forbidden]),
            (404, vec![Kind::NotFound]),
            (
                409,
                vec![Kind::SessionMismatch, Kind::SessionBusy, Kind::SessionLost],
            ),
            (413, vec![Kind::NoSpace]),
            (429, vec![Kind::AtCapacity]),
            (
                502,
                vec![Kind::EngineRefused, Kind::ImageMissing, Kind::ImageBuild],
            ),
            (
                502,
                vec![
                    Kind::InterpreterMissing,
                    Kind::InstallFailed,
                    Kind::Internal,
                ],
            ),
            (503, vec![Kind::ShuttingDown, Kind::EngineUnreachable]),
            (503, vec![Kind::HostLacks, Kind::EgressUnavailable]),
            (504, vec![Kind::EngineTimeout]),
        ];
        let page = include_str!("../../../docs/http.md");
        for (status, kinds) in table {
            let row = format!("| {status} | ");
            let row = page.lines().find(|line| line.starts_with(&row));
            let row = row.expect("the page has a row for every status");
            for kind in kinds {
                assert_eq!(status_of(kind.name()), status, "{kind:?}");
                let name = format!("`{}`", kind.name());
                assert!(row.contains(&name), "the page does not say {name}: {row}");
            }
        }
        assert_eq!(status_of("of_a_newer_daemon"), 502);
    }

    #[test]
    fn what_is_worth_trying_again_says_when() {
        let after = |kind: &str, retry_after_ms| {
            let kind = kind.to_owned();
            let detail = ErrorDetail {
                kind,
                retry_after_ms,
                ..ErrorDetail::default()
            };
            Refusal::of_detail(detail).retry_after_secs
        };
        assert_eq!(after("at_capacity", 0), Some(1));
        assert_eq!(after("at_capacity", 1001), Some(2));
        assert_eq!(after("shutting_down", 500), Some(1));
        assert_eq!(after("shutting_down", 0), None);
        assert_eq!(after("forbidden", 500), None);
    }
}
