//! One request: judged, sent on, answered.

use std::{convert::Infallible, sync::Arc};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use isol8_core::egress::host::Host;
use tokio_util::either::Either;

use crate::{
    answer::Answer,
    exchange::Exchange,
    head::{Fault, Framing, Head, Target, strip_hop_by_hop},
    lane::{Heading, Lane},
    net::Net,
    origin::Origin,
    pipe::Pipes,
    rest::Onward,
    route::{Ask, NoRoute, Route},
    session::{Log, OverBytes, Session},
    tunnel::Tunnel,
    upstream::authority,
};

/// What hyper may hold of one message at a time, in bytes: the memory of a
/// connection, and the largest head of an answer.
pub(crate) const MAX_HYPER_BUFFER_BYTES: usize = 64 << 10;

/// What every request of one client connection needs.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) session: Arc<Session>,
    pub(crate) net: Arc<Net>,
    pub(crate) log: Log,
    pub(crate) lane: Arc<Lane>,
}

impl Service {
    /// Answers one request. What it asks stands in the lane; hyper's own view
    /// holds the method and the body.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, Infallible> {
        let head = match self.lane.take() {
            Some(Ok(head)) => head,
            Some(Err(refused)) => {
                drop(Exchange::refused(&self.session, &self.log, &refused));
                return Ok(self.fault(&refused.fault));
            }
            // hyper found a request where the guard passed none. There is no
            // such case, and none is answered.
            None => return Ok(self.fault(&Fault::RequestLine)),
        };
        let mut exchange = Exchange::begin(&self.session, &self.log, &head, self.lane.revoked());
        if let Some(refused) = self.over_budget(&mut exchange) {
            return Ok(refused);
        }
        let ask = Ask {
            net: &self.net,
            session: &self.session,
            lane: &self.lane,
            host: head.target.host(),
            port: head.target.port(),
            is_tunnel: head.method == Method::CONNECT,
        };
        Ok(match ask.route().await {
            Err(why) => self.no_route(&head, &why, &mut exchange),
            Ok(route) => {
                exchange.allow(self.why_allowed());
                match &head.target {
                    Target::Tunnel { .. } => self.tunnel(&head, route, exchange),
                    Target::Origin { .. } => {
                        self.forward(*head, request.into_body(), route, exchange)
                            .await
                    }
                }
            }
        })
    }

    fn line(&self, status: StatusCode, text: String, closes: bool) -> Response<Answer> {
        Answer::line(&self.lane, status, text, closes)
    }

    fn fault(&self, fault: &Fault) -> Response<Answer> {
        self.line(fault.status(), fault.to_string(), true)
    }

    fn over_budget(&self, exchange: &mut Exchange) -> Option<Response<Answer>> {
        let why = if self.session.is_log_full() {
            "the network log of the run is full".to_owned()
        } else if self.session.is_over_bytes() {
            OverBytes.to_string()
        } else {
            return None;
        };
        exchange.block(&why);
        Some(self.line(StatusCode::TOO_MANY_REQUESTS, why, true))
    }

    /// Refused is 403, not reached is 502. A refused CONNECT ends the
    /// connection: what follows it might be meant for the tunnel.
    fn no_route(&self, head: &Head, why: &NoRoute, exchange: &mut Exchange) -> Response<Answer> {
        let host = head.target.host();
        let closes = head.method == Method::CONNECT;
        if let NoRoute::Unreachable(reason) = why {
            exchange.unreachable(reason);
            let text = format!("cannot reach {host}: {reason}");
            return self.line(StatusCode::BAD_GATEWAY, text, closes);
        }
        exchange.block(why);
        let text = format!("request to {host} blocked by network filter");
        self.line(StatusCode::FORBIDDEN, text, closes)
    }

    fn why_allowed(&self) -> &'static str {
        match self.session.rules() {
            Some(rules) if rules.is_open() => "every public host is open",
            _ => "allowed",
        }
    }

    fn tunnel(&self, head: &Head, route: Route, exchange: Exchange) -> Response<Answer> {
        let heading = self.heading(head);
        let link = exchange.meter().on(route.link);
        self.lane.put_tunnel(Tunnel {
            exchange,
            link,
            heading,
            pipes: self.pipes(),
        });
        Response::new(Answer::empty(&self.lane))
    }

    fn pipes(&self) -> Pipes {
        Pipes {
            of_run: Arc::clone(&self.session.pipes),
            of_all: Arc::clone(&self.net.pipes),
        }
    }

    /// How a long answer can go on without hyper: where nothing more is to be
    /// read from the client for it, and nothing to be encrypted.
    fn onward(&self, head: &Head, route: &Route) -> Option<Onward> {
        let is_plain = matches!(route.link, Either::Left(_));
        (is_plain && head.framing == Framing::Length(0)).then(|| Onward {
            heading: self.heading(head),
            pipes: self.pipes(),
            keep_alive: head.keep_alive,
        })
    }

    fn heading(&self, head: &Head) -> Heading {
        self.lane.heading().unwrap_or_else(|| Heading {
            host: head.target.host().clone(),
            port: head.target.port(),
            addresses: Vec::new(),
        })
    }

    /// Sends a plain request on, over a connection of its own: one that is
    /// kept could have been judged by rules that no longer hold.
    async fn forward(
        &self,
        head: Head,
        body: Incoming,
        route: Route,
        mut exchange: Exchange,
    ) -> Response<Answer> {
        let host = head.target.host().clone();
        let onward = self.onward(&head, &route);
        let Some(request) = to_origin(head, body, &route) else {
            exchange.block(&Fault::Path);
            return self.fault(&Fault::Path);
        };
        let link = TokioIo::new(exchange.meter().on(route.link));
        let handshake = http1::Builder::new()
            .max_buf_size(MAX_HYPER_BUFFER_BYTES)
            .handshake(link)
            .await;
        let answered = match handshake {
            Ok((mut sender, connection)) => {
                let origin = Origin::speak(connection, &self.session.tasks);
                let sent = sender.send_request(request).await;
                sent.map(|response| (response, origin))
            }
            Err(error) => Err(error),
        };
        match answered {
            Ok((response, origin))
                if response.status().is_informational() || is_coded(response.headers()) =>
            {
                drop(origin);
                self.bad_answer(&host, &mut exchange)
            }
            Ok((response, origin)) => {
                let (mut parts, body) = response.into_parts();
                strip_hop_by_hop(&mut parts.headers);
                // Ours to say; hyper answers as the client asked.
                parts.version = Version::HTTP_11;
                let answer = Answer::relay(&self.lane, body, exchange, origin, onward);
                Response::from_parts(parts, answer)
            }
            Err(error) => {
                if let Some(fault) = self.lane.broken_body() {
                    exchange.block(&fault);
                    return self.fault(&fault);
                }
                tracing::debug!(%error, "an origin gave no answer");
                if self.session.is_over_bytes() {
                    exchange.cut_off(OverBytes);
                    let text = OverBytes.to_string();
                    return self.line(StatusCode::TOO_MANY_REQUESTS, text, true);
                }
                self.bad_answer(&host, &mut exchange)
            }
        }
    }

    fn bad_answer(&self, host: &Host, exchange: &mut Exchange) -> Response<Answer> {
        exchange.unreachable("no valid answer");
        let text = format!("cannot reach {host}: no valid answer");
        self.line(StatusCode::BAD_GATEWAY, text, false)
    }
}

/// A coding beside `chunked` would go to the client as if it were none.
fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    !codings.all(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// The request as the origin sees it, or as an upstream proxy does.
fn to_origin(head: Head, body: Incoming, route: &Route) -> Option<Request<Incoming>> {
    let Target::Origin { host, port, path } = head.target else {
        return None;
    };
    let whole = authority(&host, port);
    let named = if port == 80 {
        whole.strip_suffix(":80").unwrap_or(&whole)
    } else {
        &whole
    };
    let uri = if route.is_proxied {
        let builder = Uri::builder().scheme("http").authority(named);
        builder.path_and_query(path).build().ok()?
    } else {
        Uri::from(path)
    };
    let mut request = Request::new(body);
    *request.uri_mut() = uri;
    *request.headers_mut() = head.headers;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(named).ok()?);
    let may_have_none = !matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    match head.framing {
        Framing::Length(0) if may_have_none => {}
        Framing::Length(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Said, or hyper leaves the body of a GET out.
        Framing::Chunked => {
            let chunked = HeaderValue::from_static("chunked");
            headers.insert(header::TRANSFER_ENCODING, chunked);
        }
    }
    if let (true, Some(value)) = (route.is_proxied, &route.authorization) {
        let name = HeaderName::from_static("proxy-authorization");
        headers.insert(name, value.clone());
    }
    *request.method_mut() = head.method;
    Some(request)
}
