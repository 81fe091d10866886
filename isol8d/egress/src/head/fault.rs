//! Why a request was refused before anybody judged where it goes.

use hyper::StatusCode;
use thiserror::Error;

/// What is wrong with a head, or with the framing of a body.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// Over [`MAX_HEAD_BYTES`](super::MAX_HEAD_BYTES).
    #[error("the request head is larger than 64 KiB")]
    TooLarge,
    /// Over [`MAX_HEADERS`](super::MAX_HEADERS).
    #[error("the request has more than 100 headers")]
    TooManyHeaders,
    /// It did not arrive in time.
    #[error("the request did not arrive in time")]
    TooSlow,
    /// The connection ended inside it.
    #[error("the connection ended inside the request")]
    Incomplete,
    /// NUL, or another byte that has no place in a head.
    #[error("a control byte in the request head")]
    ControlByte,
    /// CR without LF, or LF without CR.
    #[error("a line that does not end in CR LF")]
    BareNewline,
    /// The first line is not `METHOD target HTTP/1.x`.
    #[error("not a request line of HTTP/1.0 or HTTP/1.1")]
    RequestLine,
    /// Not a header field; folded lines and space before the colon are here.
    #[error("a malformed header field")]
    HeaderField,
    /// TRACE would answer with what a proxy added.
    #[error("the method is not allowed")]
    Method,
    /// Not once, or not a number.
    #[error("`Content-Length` must be one number, given once")]
    ContentLength,
    /// Anything but `chunked`, once, on HTTP/1.1.
    #[error("`Transfer-Encoding` must be `chunked`, given once, on HTTP/1.1")]
    TransferEncoding,
    /// Content-Length and Transfer-Encoding disagree about where it ends.
    #[error("both `Content-Length` and `Transfer-Encoding`")]
    TwoFramings,
    /// A CONNECT with a body would be data before the tunnel stands.
    #[error("a CONNECT with a body")]
    ConnectBody,
    /// Missing or doubled.
    #[error("`Host` must be given once")]
    HostHeader,
    /// Origin-form, asterisk-form, or nothing we know.
    #[error("not a proxy request: the target must be `http://host/…`, or `host:port` with CONNECT")]
    TargetForm,
    /// `https://` in a plain request would mean TLS by the proxy.
    #[error("`https://` needs CONNECT")]
    HttpsTarget,
    /// Another scheme.
    #[error("the scheme is not supported")]
    Scheme,
    /// `user:password@host`: hides where a request goes, and leaks.
    #[error("a user name in the target")]
    UserInfo,
    /// Not a host.
    #[error("not a host name or address")]
    Host,
    /// Not a port.
    #[error("not a port")]
    Port,
    /// Not a path.
    #[error("not a path")]
    Path,
    /// The size line, the end of a chunk or the trailer.
    #[error("malformed chunked body")]
    Chunk,
}

impl Fault {
    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
