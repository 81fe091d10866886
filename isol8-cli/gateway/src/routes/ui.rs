//! `/ui`: a page for the browser, and what belongs to it. It holds no data, since
//! it is open to everybody: it asks for the key and sends it with each request.
//!
//! Everything is embedded, and the page may load nothing from elsewhere.

use axum::{
    Router,
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
    routing::get,
};

/// Where the page is.
pub(crate) const PAGE: &str = "/ui";
const SCRIPT: &str = "/ui/ui.js";
const STYLE: &str = "/ui/ui.css";

const HTML: &str = include_str!("../../ui/index.html");
const CSS: &str = include_str!("../../ui/ui.css");
/// One module out of these parts, each of which knows those before it.
const JS: &str = concat!(
    include_str!("../../ui/elements.js"),
    include_str!("../../ui/gateway.js"),
    include_str!("../../ui/output.js"),
    include_str!("../../ui/programs.js"),
    include_str!("../../ui/playground.js"),
    include_str!("../../ui/prometheus.js"),
    include_str!("../../ui/dashboard.js"),
    include_str!("../../ui/ui.js"),
);

/// Nothing runs that is not a file of this gateway, text never becomes markup, and
/// nothing is sent elsewhere. `data:` is the icon.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What a browser is told about every one of these files, besides what all
/// answers say.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-embedder-policy"),
        "require-corp",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Whether this path needs no key: a browser cannot send one with the page it
/// loads. No path that holds data may be among them.
pub(crate) fn is_open(path: &str) -> bool {
    path == PAGE || path.starts_with("/ui/")
}

/// The page and its files.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(PAGE, get(async || file("text/html; charset=utf-8", HTML)))
        .route("/ui/", get(async || to_page()))
        .route(
            SCRIPT,
            get(async || file("text/javascript; charset=utf-8", JS)),
        )
        .route(STYLE, get(async || file("text/css; charset=utf-8", CSS)))
}

fn file(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The page's own links are relative to a path without a slash, so that they
/// also hold behind a proxy that puts the gateway below a path of its own.
fn to_page() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let page = HeaderValue::from_static("../ui");
    response.headers_mut().insert(header::LOCATION, page);
    response
}
