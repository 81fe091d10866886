//! A failure as a gRPC status: the one place where kinds become codes.

use bytes::Bytes;
use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::ErrorDetail;
use prost::Message as _;
use tonic::{Code, Status};

/// A status travels in HTTP/2 headers, and clients take 16 KiB of those by
/// default. The message goes twice (as text and in the detail), and both
/// encodings make it longer.
const MAX_TEXT_BYTES: usize = 1 << 10;

/// Causes that are worth reading: the last lines of an installer are causes too.
const MAX_CAUSES: usize = 10;

/// Of all causes together.
const MAX_CAUSES_BYTES: usize = 4 << 10;

/// The code that stands for a kind.
#[must_use]
pub fn code(kind: FailureKind) -> Code {
    match kind {
        FailureKind::InvalidRequest => Code::InvalidArgument,
        FailureKind::NotYet => Code::Unimplemented,
        FailureKind::Forbidden => Code::PermissionDenied,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::SessionLost => Code::DataLoss,
        FailureKind::AtCapacity | FailureKind::NoSpace => Code::ResourceExhausted,
        FailureKind::ShuttingDown
        | FailureKind::EngineUnreachable
        | FailureKind::EgressUnavailable => Code::Unavailable,
        FailureKind::EngineTimeout => Code::DeadlineExceeded,
        FailureKind::Unsupported
        | FailureKind::ImageMissing
        | FailureKind::ImageBuild
        | FailureKind::InterpreterMissing
        | FailureKind::InstallFailed
        | FailureKind::SessionMismatch
        | FailureKind::SessionBusy
        | FailureKind::HostLacks => Code::FailedPrecondition,
        FailureKind::EngineRefused | FailureKind::Internal => Code::Internal,
    }
}

/// The status that carries a failure, its detail included.
#[must_use]
pub fn from_failure(failure: &Failure) -> Status {
    let retry_after = failure.retry_after.unwrap_or_default();
    let detail = ErrorDetail {
        kind: failure.kind.name().to_owned(),
        message: shorten(&failure.message),
        causes: causes(&failure.causes),
        hint: shorten(failure.hint.as_deref().unwrap_or_default()),
        retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX),
    };
    let details = Bytes::from(detail.encode_to_vec());
    Status::with_details(code(failure.kind), detail.message, details)
}

fn causes(all: &[String]) -> Vec<String> {
    let mut room = MAX_CAUSES_BYTES;
    let shortened = all.iter().take(MAX_CAUSES).map(|cause| shorten(cause));
    let fitting = shortened.take_while(|cause| {
        let fits = cause.len() <= room;
        room = room.saturating_sub(cause.len());
        fits
    });
    fitting.collect()
}

/// The text, cut at a character when it is too long for a header.
fn shorten(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    format!("{}…", cut(text, MAX_TEXT_BYTES))
}

/// The beginning of a text, at most so many bytes and whole characters.
pub(crate) fn cut(text: &str, most_bytes: usize) -> &str {
    let mut end = text.len().min(most_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_detail_says_all_that_the_failure_knows() {
        let failure = Failure::new(FailureKind::AtCapacity, "10 runs are waiting")
            .cause("outer")
            .cause("inner")
            .hint("try again")
            .retry_after(Duration::from_millis(1500));
        let status = from_failure(&failure);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "10 runs are waiting");
        let detail = ErrorDetail::decode(status.details()).expect("an ErrorDetail");
        assert_eq!(detail.kind, "at_capacity");
        assert_eq!(detail.causes, ["outer", "inner"]);
        assert_eq!(detail.hint, "try again");
        assert_eq!(detail.retry_after_ms, 1500);
    }

    #[test]
    fn a_long_failure_still_fits_into_headers() {
        let long = "ü".repeat(100_000);
        let mut failure = Failure::new(FailureKind::ImageBuild, &*long).hint(&*long);
        for _ in 0..50 {
            failure = failure.cause(&*long);
        }
        let status = from_failure(&failure);
        // Base64 makes 4 of 3, percent-encoding 3 of 1.
        let headers = status.details().len() * 4 / 3 + status.message().len() * 3;
        assert!(headers < 14 << 10, "{headers} bytes");
    }
}
