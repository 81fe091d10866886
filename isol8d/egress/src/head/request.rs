//! One head, from bytes to checked values.

use hyper::{
    HeaderMap, Method,
    header::{self, HeaderName, HeaderValue},
};

use isol8_core::egress::record::cut;

use super::{Fault, MAX_HEADERS, Target, target::authority_text};

/// How much of a refused head its log record may repeat.
const MAX_QUOTED_BYTES: usize = 256;

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes; 0 where there is no body.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

/// A head that passed every check.
#[derive(Debug, Clone)]
pub struct Head {
    /// Any token but TRACE.
    pub method: Method,
    /// Where it goes.
    pub target: Target,
    /// What is for the origin: no hop-by-hop field, no `Proxy-*`, no `Host`,
    /// no framing.
    pub headers: HeaderMap,
    /// Where its body ends.
    pub framing: Framing,
    /// HTTP/1.1, not 1.0.
    pub is_http11: bool,
    /// The client keeps the connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
}

/// A head that did not pass, as far as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub fault: Fault,
    /// The first word, when it is printable.
    pub method: String,
    /// What stood for the host, printable and short, or nothing.
    pub host: String,
}

impl Refused {
    /// Reads from the bytes of a head, whole or not, what its record may show.
    pub(super) fn new(fault: Fault, head: &[u8]) -> Self {
        let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next();
        let mut words = line.unwrap_or_default().split(|byte| *byte == b' ');
        let mut word = || {
            let word = words.next().unwrap_or_default();
            cut(&printable(word), MAX_QUOTED_BYTES)
        };
        let (method, target) = (word(), word());
        Self {
            fault,
            method,
            host: authority_text(&target).to_owned(),
        }
    }
}

/// What is printable stays as it is, quotes and backslashes too: a secret among
/// them must still be found, and the log quotes them itself.
fn printable(word: &[u8]) -> String {
    let mut text = String::with_capacity(word.len());
    for &byte in word {
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            text.extend(byte.escape_ascii().map(char::from));
        }
    }
    text
}

/// Parses exactly one head, its empty line included.
///
/// # Errors
/// The first rule that it breaks.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_)
        | Err(httparse::Error::NewLine | httparse::Error::Version | httparse::Error::Token) => {
            return Err(Fault::RequestLine);
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyHeaders),
        Err(_) => return Err(Fault::HeaderField),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Fault::RequestLine);
    };
    let is_http11 = minor == 1;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::RequestLine)?;
    if method == Method::TRACE {
        return Err(Fault::Method);
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::RequestLine);
    }
    let mut headers = collect(request.headers)?;
    let framing = framing(&headers, is_http11)?;
    let is_connect = method == Method::CONNECT;
    check_host(&headers, is_http11 && !is_connect)?;
    let target = if is_connect {
        if framing != Framing::Length(0) {
            return Err(Fault::ConnectBody);
        }
        Target::tunnel(target)?
    } else {
        Target::origin(target)?
    };
    let keep_alive = keep_alive(&headers, is_http11);
    let expects_continue = is_http11 && headers.contains_key(header::EXPECT);
    strip_hop_by_hop(&mut headers);
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    Ok(Head {
        method,
        target,
        headers,
        framing,
        is_http11,
        keep_alive,
        expects_continue,
    })
}

fn collect(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::HeaderField)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Fault::HeaderField)?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn framing(headers: &HeaderMap, is_http11: bool) -> Result<Framing, Fault> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lengths.next(), encodings.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => Err(Fault::TwoFramings),
        (Some(length), None) => {
            let text = length.to_str().unwrap_or_default();
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            match text.parse() {
                Ok(length) if is_number && lengths.next().is_none() => Ok(Framing::Length(length)),
                _ => Err(Fault::ContentLength),
            }
        }
        (None, Some(encoding)) => {
            let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
            if is_chunked && is_http11 && encodings.next().is_none() {
                Ok(Framing::Chunked)
            } else {
                Err(Fault::TransferEncoding)
            }
        }
    }
}

/// What `Host` says is of no account, since the target decides and the origin
/// is told the target; but a second one, or none where HTTP/1.1 asks for it,
/// is a request that two readers would understand differently. CONNECT may go
/// without: some clients do, and its target is an authority already.
fn check_host(headers: &HeaderMap, is_required: bool) -> Result<(), Fault> {
    match headers.get_all(header::HOST).iter().count() {
        0 if is_required => Err(Fault::HostHeader),
        0 | 1 => Ok(()),
        _ => Err(Fault::HostHeader),
    }
}

fn keep_alive(headers: &HeaderMap, is_http11: bool) -> bool {
    let says = |word: &str| {
        let old = HeaderName::from_static("proxy-connection");
        [header::CONNECTION, old]
            .iter()
            .any(|name| tokens(headers, name).any(|token| token.eq_ignore_ascii_case(word)))
    };
    if is_http11 {
        !says("close")
    } else {
        says("keep-alive") && !says("close")
    }
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes what is between two neighbours only: the fields of RFC 9110 7.6.1,
/// those that `Connection` names, and everything meant for a proxy.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    let of_proxies: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("proxy-"))
        .cloned()
        .collect();
    for name in named.into_iter().chain(of_proxies) {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("http2-settings"),
    ] {
        headers.remove(name);
    }
}
