//! Request bodies: bounded in size, in time and all together, and read into types
//! with errors that name the field.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    api::Object,
    bounds::Bounds,
    keys::Caller,
    refusal::Refusal,
    shares::{Share, Shares},
};

/// Room is counted in pieces of this size.
const PIECE_BYTES: usize = 1 << 10;

/// For more room for a body that has come in part.
pub(crate) const GROW_TIME: Duration = Duration::from_secs(5);

/// Of a body that is too large this much is read and dropped, so that a client
/// that writes before it reads gets to its answer.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Memory that requests share.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    pieces: Arc<Semaphore>,
    shares: Arc<Shares>,
    most: u32,
}

/// A part of it, as long as it is held.
#[derive(Debug)]
pub(crate) struct Place {
    pieces: OwnedSemaphorePermit,
    share: Share,
}

impl Place {
    /// Both are one from now on.
    pub(crate) fn merge(&mut self, other: Self) {
        self.pieces.merge(other.pieces);
        self.share.merge(other.share);
    }
}

impl Room {
    /// Room for `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let most = u32::try_from(bytes.div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX >> 4);
        Self {
            pieces: Arc::new(Semaphore::new(most as usize)),
            shares: Shares::new(most as usize),
            most,
        }
    }

    /// Waits for a part of it. Who wants more than there is gets all of it.
    ///
    /// # Errors
    /// 429 where there is none in time.
    pub(crate) async fn reserve(
        &self,
        caller: &Caller,
        bytes: u64,
        bounds: &Bounds,
    ) -> Result<Place, Refusal> {
        self.pieces(caller, self.count(bytes), bounds.body).await
    }

    /// Waits until a place is for `bytes`, but not for long: those who wait hold
    /// what others wait for.
    pub(crate) async fn grow(
        &self,
        caller: &Caller,
        place: &mut Place,
        bytes: usize,
        bounds: &Bounds,
    ) -> Result<(), Refusal> {
        let has = u32::try_from(place.pieces.num_permits()).unwrap_or(u32::MAX);
        let more = self.count(bytes as u64).saturating_sub(has);
        let time = bounds.body.min(GROW_TIME);
        place.merge(self.pieces(caller, more, time).await?);
        Ok(())
    }

    fn count(&self, bytes: u64) -> u32 {
        let pieces = bytes.div_ceil(PIECE_BYTES as u64);
        u32::try_from(pieces).unwrap_or(u32::MAX).min(self.most)
    }

    /// As [`Room::reserve`], and waits for so long.
    pub(crate) async fn place(
        &self,
        caller: &Caller,
        bytes: usize,
        time: Duration,
    ) -> Result<Place, Refusal> {
        self.pieces(caller, self.count(bytes as u64), time).await
    }

    /// The caller's share first: who has too much does not stand before the others.
    async fn pieces(&self, caller: &Caller, count: u32, time: Duration) -> Result<Place, Refusal> {
        let full = || Refusal::busy("too many large requests at once");
        let share = self.shares.take(caller, count as usize, time).await;
        let share = share.ok_or_else(full)?;
        let pieces = Arc::clone(&self.pieces).acquire_many_owned(count);
        let pieces = timeout(time, pieces).await.map_err(|_| full())?;
        let pieces = pieces.map_err(|_| Refusal::stopping())?;
        Ok(Place { pieces, share })
    }
}

/// A body, and its place in the room as long as it is held.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    pub(crate) place: Place,
}

/// Reads a body.
///
/// # Errors
/// 413 for more than the limit, 408 where it does not come in time, 429 where
/// there was no room for it in that time, 415 where it is compressed, 400 where it
/// breaks off.
pub(crate) async fn read(
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    room: &Room,
    bounds: &Bounds,
) -> Result<Held, Refusal> {
    let told = headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|told| told.to_str().ok()?.parse::<usize>().ok());
    let encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut encodings =
        encodings.filter(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encodings.next().is_some() {
        let message = "`Content-Encoding`: bodies are taken as they are, not compressed";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    if told.is_some_and(|told| told > bounds.body_bytes) {
        // A client that asks before it sends needs nothing but the answer: reading
        // would tell it to go on.
        if !headers.contains_key(header::EXPECT) {
            drain(body).await;
        }
        return Err(too_large(bounds));
    }
    let deadline = Instant::now() + bounds.body;
    let mut held = Vec::new();
    let mut place = room.reserve(caller, 0, bounds).await?;
    let mut body = body;
    loop {
        let Ok(frame) = timeout_at(deadline, body.frame()).await else {
            let message = "the request's body did not come in time";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message));
        };
        let Some(frame) = frame else {
            let bytes = held.into();
            return Ok(Held { bytes, place });
        };
        let frame = frame.map_err(|_| Refusal::invalid("the request's body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let wanted = held.len() + data.len();
        if wanted > bounds.body_bytes {
            drop((held, place));
            drain(body).await;
            return Err(too_large(bounds));
        }
        // As it comes: what was only announced takes no room from others.
        if wanted > held.capacity() {
            let ahead = (wanted * 2)
                .min(told.unwrap_or(bounds.body_bytes))
                .max(wanted);
            room.grow(caller, &mut place, ahead, bounds).await?;
            held.reserve_exact(ahead - held.len());
        }
        held.extend_from_slice(&data);
    }
}

async fn drain(mut body: Body) {
    let all = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(bytes);
            if left == 0 {
                break;
            }
        }
    };
    // Whether it was all of it or not: the answer is the same.
    let _drained = timeout(DRAIN_TIME, all).await;
}

fn too_large(bounds: &Bounds) -> Refusal {
    let most = bounds.body_bytes;
    let message = format!("the request's body is larger than {most} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// What a body says.
///
/// # Errors
/// 400 that names the field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // `?` stands for what broke off before it had a name.
        Refusal::invalid(match path.trim_end_matches(".?") {
            "." | "?" => format!("bad request: {inner}"),
            path => format!("`{path}`: {inner}"),
        })
    })?;
    reader
        .end()
        .map_err(|error| Refusal::invalid(format!("bad request: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ExecuteBody;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let refusal = parse::<ExecuteBody>(text.as_bytes()).expect_err("it is wrong");
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        let said = &refusal.body.error;
        assert!(said.starts_with(expected), "{said}");
    }

    #[test]
    fn an_error_names_the_field() {
        check("", "bad request: EOF");
        check("{}", "bad request: missing field `request`");
        // No array stands for an object.
        let program = r#"["", "bash", null, {}, null, null, {}, [], [], {}]"#;
        check(
            &format!("[{program}]"),
            "bad request: invalid type: sequence, expected an object",
        );
        check(
            &format!(r#"{{"request":{program}}}"#),
            "`request`: invalid type: sequence",
        );
        check(
            r#"{"request":{"code":1}}"#,
            "`request.code`: invalid type: integer `1`",
        );
        check(
            r#"{"request":{"code":""}}"#,
            "`request`: missing field `runtime`",
        );
        check(
            r#"{"request":{"code":"","runtime":"perl"}}"#,
            "`request.runtime`: unknown variant `perl`, expected one of `python`, `node`",
        );
        let with = |extra: &str| format!(r#"{{"request":{{"code":"","runtime":"bash"}},{extra}}}"#);
        check(
            &with(r#""options":{"x":1}"#),
            "`options.x`: unknown field `x`",
        );
        check(&with(r#""other":1"#), "`other`: unknown field");
        check(
            &with(r#""options":[]"#),
            "`options`: invalid type: sequence",
        );
        check(
            &with(r#""options":{"networkFilter":[]}"#),
            "`options.networkFilter`: invalid type: sequence",
        );
        check(
            &with(r#""options":{"secrets":{"A=B":"x"}}"#),
            "`options.secrets`: `A=B` is not a variable name",
        );
        check(
            &with(r#""options":{"networkFilter":{"whitelist":[1]}}"#),
            "`options.networkFilter.whitelist[0]`",
        );
        check(
            r#"{"request":{"code":"","runtime":"bash"}} x"#,
            "bad request: trailing",
        );
        check(
            r#"{"request":{"code":"","runtime":"bash","files":{"a":{"hex":""}}}}"#,
            "`request.files.a`: expected a text or",
        );
        check(
            r#"{"request":{"code":"","runtime":"bash","files":{"a":["eA=="]}}}"#,
            "`request.files.a`: expected a text or",
        );
        check(
            r#"{"request":{"code":"","runtime":"bash","env":{"A":"x\u0000"}}}"#,
            "`request.env`: the value of `A` has a NUL",
        );
    }
}
