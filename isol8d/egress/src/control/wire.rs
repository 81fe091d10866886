//! The messages as bytes.
//!
//! Both ends are one binary, so nothing here is kept for an older one.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use isol8_core::egress::{
    record::{self, Action},
    rules,
};
use prost::{Message, Oneof};

use super::{ControlError, TrafficId};
use crate::{
    confine::{Confined, Landlock},
    gate,
};

#[derive(Clone, PartialEq, Message)]
struct Order {
    #[prost(oneof = "OrderKind", tags = "1, 2, 3, 4")]
    kind: Option<OrderKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum OrderKind {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Open(Policy),
    #[prost(message, tag = "3")]
    Set(Policy),
    #[prost(uint64, tag = "4")]
    Close(TrafficId),
}

#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(string, optional, tag = "1")]
    upstream: Option<String>,
    #[prost(string, tag = "2")]
    no_proxy: String,
    #[prost(bool, tag = "3")]
    any_port: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Policy {
    #[prost(uint64, tag = "1")]
    traffic: TrafficId,
    #[prost(string, repeated, tag = "2")]
    allow: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    deny: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    registries: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    allow_private: Vec<String>,
    #[prost(uint32, repeated, tag = "6")]
    ports: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct News {
    #[prost(oneof = "NewsKind", tags = "1, 2, 3, 4")]
    kind: Option<NewsKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum NewsKind {
    #[prost(message, tag = "1")]
    Ready(Ready),
    #[prost(message, tag = "2")]
    Ack(Ack),
    #[prost(message, tag = "3")]
    Record(Record),
    #[prost(message, tag = "4")]
    Closed(Closed),
}

#[derive(Clone, PartialEq, Message)]
struct Ready {
    #[prost(uint32, tag = "1")]
    uid: u32,
    #[prost(uint32, tag = "2")]
    landlock: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Ack {
    #[prost(uint64, tag = "1")]
    traffic: TrafficId,
    #[prost(string, optional, tag = "2")]
    refused: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    traffic: TrafficId,
    #[prost(uint64, tag = "2")]
    timestamp_ms: u64,
    #[prost(string, tag = "3")]
    method: String,
    #[prost(string, tag = "4")]
    host: String,
    #[prost(uint32, tag = "5")]
    port: u32,
    #[prost(string, optional, tag = "6")]
    path: Option<String>,
    #[prost(bool, tag = "7")]
    blocked: bool,
    #[prost(string, tag = "8")]
    reason: String,
    #[prost(uint64, tag = "9")]
    bytes_in: u64,
    #[prost(uint64, tag = "10")]
    bytes_out: u64,
    #[prost(uint64, tag = "11")]
    duration_micros: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Closed {
    #[prost(uint64, tag = "1")]
    traffic: TrafficId,
    #[prost(uint64, tag = "2")]
    requests: u64,
    #[prost(uint64, tag = "3")]
    blocked: u64,
    #[prost(uint64, tag = "4")]
    unlogged: u64,
    #[prost(uint64, tag = "5")]
    bytes_in: u64,
    #[prost(uint64, tag = "6")]
    bytes_out: u64,
}

/// An order and the descriptor that goes with it.
pub(super) fn order<'d>(order: &super::Order<BorrowedFd<'d>>) -> (Vec<u8>, Option<BorrowedFd<'d>>) {
    let (kind, descriptor) = match order {
        super::Order::Hello(hello) => {
            let said = Hello {
                upstream: hello.upstream.clone(),
                no_proxy: hello.no_proxy.clone(),
                any_port: hello.any_port,
            };
            (OrderKind::Hello(said), hello.authorities)
        }
        super::Order::Open {
            traffic,
            listener,
            filter,
        } => (OrderKind::Open(policy(*traffic, filter)), Some(*listener)),
        super::Order::Set { traffic, filter } => (OrderKind::Set(policy(*traffic, filter)), None),
        super::Order::Close { traffic } => (OrderKind::Close(*traffic), None),
    };
    (Order { kind: Some(kind) }.encode_to_vec(), descriptor)
}

/// Reads an order. A descriptor that does not belong to it is an error too.
pub(super) fn to_order(
    message: &[u8],
    fd: Option<OwnedFd>,
) -> Result<super::Order<OwnedFd>, ControlError> {
    let malformed = ControlError::Malformed;
    let order = Order::decode(message).map_err(|_| malformed("an order"))?;
    let order = match (order.kind.ok_or(malformed("an order of no kind"))?, fd) {
        (OrderKind::Hello(hello), authorities) => super::Order::Hello(super::Hello {
            upstream: hello.upstream,
            no_proxy: hello.no_proxy,
            authorities,
            any_port: hello.any_port,
        }),
        (OrderKind::Open(policy), Some(listener)) => super::Order::Open {
            traffic: policy.traffic,
            listener,
            filter: filter(policy)?,
        },
        (OrderKind::Set(policy), None) => super::Order::Set {
            traffic: policy.traffic,
            filter: filter(policy)?,
        },
        (OrderKind::Close(traffic), None) => super::Order::Close { traffic },
        (OrderKind::Open(_), None) => return Err(malformed("no listener")),
        (_, Some(_)) => return Err(malformed("a descriptor")),
    };
    Ok(order)
}

fn policy(traffic: TrafficId, filter: &rules::Filter) -> Policy {
    Policy {
        traffic,
        allow: filter.allow.clone(),
        deny: filter.deny.clone(),
        registries: filter.registries.clone(),
        allow_private: filter
            .allow_private
            .iter()
            .map(ToString::to_string)
            .collect(),
        ports: filter.ports.iter().copied().map(u32::from).collect(),
    }
}

pub(super) fn length_of(filter: &rules::Filter) -> usize {
    policy(0, filter).encoded_len()
}

fn filter(policy: Policy) -> Result<rules::Filter, ControlError> {
    let malformed = ControlError::Malformed;
    let ranges = policy.allow_private.iter().map(|range| range.parse());
    let ports = policy.ports.iter().copied().map(u16::try_from);
    Ok(rules::Filter {
        allow: policy.allow,
        deny: policy.deny,
        registries: policy.registries,
        allow_private: ranges
            .collect::<Result<_, _>>()
            .map_err(|_| malformed("a range"))?,
        ports: ports
            .collect::<Result<_, _>>()
            .map_err(|_| malformed("a port"))?,
    })
}

/// News as bytes.
pub(super) fn news(news: &super::News) -> Vec<u8> {
    let kind = match news {
        super::News::Ready(confined) => NewsKind::Ready(Ready {
            uid: confined.uid,
            landlock: match confined.landlock {
                Landlock::Full => 1,
                Landlock::Partial => 2,
                Landlock::Missing => 3,
            },
        }),
        super::News::Ack { traffic, result } => NewsKind::Ack(Ack {
            traffic: *traffic,
            refused: result.as_ref().err().cloned(),
        }),
        super::News::Record { traffic, record } => NewsKind::Record(written(*traffic, record)),
        super::News::Closed { traffic, totals } => NewsKind::Closed(Closed {
            traffic: *traffic,
            requests: totals.requests,
            blocked: totals.blocked,
            unlogged: totals.unlogged,
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
        }),
    };
    News { kind: Some(kind) }.encode_to_vec()
}

fn written(traffic: TrafficId, record: &record::Record) -> Record {
    Record {
        traffic,
        timestamp_ms: record.timestamp_ms,
        method: record.method.clone(),
        host: record.host.clone(),
        port: record.port.into(),
        path: record.path.clone(),
        blocked: record.action == Action::Block,
        reason: record.reason.clone(),
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        duration_micros: u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
    }
}

/// Reads news.
pub(super) fn to_news(message: &[u8]) -> Result<super::News, ControlError> {
    let malformed = ControlError::Malformed;
    let news = News::decode(message).map_err(|_| malformed("news"))?;
    Ok(match news.kind.ok_or(malformed("news of no kind"))? {
        NewsKind::Ready(ready) => super::News::Ready(Confined {
            uid: ready.uid,
            landlock: match ready.landlock {
                1 => Landlock::Full,
                2 => Landlock::Partial,
                3 => Landlock::Missing,
                _ => return Err(malformed("a state of Landlock")),
            },
        }),
        NewsKind::Ack(ack) => super::News::Ack {
            traffic: ack.traffic,
            result: ack.refused.map_or(Ok(()), Err),
        },
        NewsKind::Record(record) => super::News::Record {
            traffic: record.traffic,
            record: read(record)?,
        },
        NewsKind::Closed(closed) => super::News::Closed {
            traffic: closed.traffic,
            totals: gate::Totals {
                requests: closed.requests,
                blocked: closed.blocked,
                unlogged: closed.unlogged,
                bytes_in: closed.bytes_in,
                bytes_out: closed.bytes_out,
            },
        },
    })
}

fn read(record: Record) -> Result<record::Record, ControlError> {
    Ok(record::Record {
        timestamp_ms: record.timestamp_ms,
        method: record.method,
        host: record.host,
        port: u16::try_from(record.port).map_err(|_| ControlError::Malformed("a port"))?,
        path: record.path,
        action: if record.blocked {
            Action::Block
        } else {
            Action::Allow
        },
        reason: record.reason,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        duration: Duration::from_micros(record.duration_micros),
    })
}
