//! What one sandbox may use of the proxy, and for how long things may stand.

use std::time::Duration;

/// Connections of one sandbox at a time. Installers open a few dozen; 256
/// leaves room and keeps one sandbox below a fraction of a process's files.
pub const CONNECTIONS: usize = 256;

/// Connections of all sandboxes together: what eight at their own limit have.
/// Each costs two files and, when it is as busy as can be, about 256 KiB of
/// buffers (an idle one some 50), so this bounds the memory of the process.
pub const CONNECTIONS_IN_ALL: usize = 2048;

/// Pipes of one sandbox at a time, one for each direction that carries much;
/// further directions are copied, which is slower and else the same.
pub const PIPES: usize = 32;

/// Pipes of all sandboxes together: half of what a user may have of them, and
/// at most 32 MiB of what they hold.
pub const PIPES_IN_ALL: usize = 128;

/// How long a request's head may take from its first byte, and a new
/// connection until that byte: a slow head would hold a connection for ever.
pub const HEAD: Duration = Duration::from_secs(15);

/// How long a kept-alive connection may wait for its next request. Clients
/// that pool connections drop them after a minute or so themselves.
pub const IDLE: Duration = Duration::from_secs(60);

/// How long a tunnel or an exchange may pass no byte in either direction.
/// Servers that compute before they answer are given five minutes.
pub const STALL: Duration = Duration::from_secs(300);

/// Lookups of one sandbox at a time. Each may hang for as long as the system's
/// resolver takes, which whoever owns a name can bring about: sixteen sandboxes
/// that do nothing else would be needed to use up those of the process.
pub const LOOKUPS: usize = 8;

/// Lookups of all sandboxes together.
pub const LOOKUPS_IN_ALL: usize = 128;

/// How long a tunnel's first TLS message may take.
pub const HELLO: Duration = Duration::from_secs(10);

/// How long a name may take to resolve.
pub const RESOLVE: Duration = Duration::from_secs(10);

/// How long a local lookup may take when an upstream proxy resolves anyway:
/// behind such proxies names outside often do not resolve at all, and a lookup
/// that nobody answers must not cost every request ten seconds.
pub const RESOLVE_BESIDE_UPSTREAM: Duration = Duration::from_secs(2);

/// How long all tries to connect may take together.
pub const CONNECT: Duration = Duration::from_secs(15);

/// How long one address may take, so that a dead first one leaves time for
/// the others.
pub const CONNECT_ONE: Duration = Duration::from_secs(5);

/// Bytes in both directions together, from the opening of a gate to its close:
/// of one run, or of one step of an installer. More than any package set; little
/// enough that a program cannot fill a link for hours.
pub const BYTES: u64 = 4 << 30;

/// Bytes of log records, from the opening of a gate to its close. At the end of
/// it requests are refused, so that none passes unlogged.
pub const LOG_BYTES: u64 = 4 << 20;

/// How long [`Gate::close`](crate::Gate::close) waits for what was under way.
/// Everything under way is told to end and needs no peer for it, so this is
/// only reached when the machine is stuck.
pub const CLOSE: Duration = Duration::from_secs(5);

/// The limits of one sandbox. [`Limits::default`] is what the product uses;
/// tests make them small.
#[derive(Debug, Clone)]
pub struct Limits {
    /// See [`CONNECTIONS`].
    pub connections: usize,
    /// See [`LOOKUPS`].
    pub lookups: usize,
    /// See [`PIPES`].
    pub pipes: usize,
    /// See [`HEAD`].
    pub head: Duration,
    /// See [`IDLE`].
    pub idle: Duration,
    /// See [`STALL`].
    pub stall: Duration,
    /// See [`HELLO`].
    pub hello: Duration,
    /// See [`RESOLVE`].
    pub resolve: Duration,
    /// See [`RESOLVE_BESIDE_UPSTREAM`].
    pub resolve_beside_upstream: Duration,
    /// See [`CONNECT`].
    pub connect: Duration,
    /// See [`CONNECT_ONE`].
    pub connect_one: Duration,
    /// See [`BYTES`].
    pub bytes: u64,
    /// See [`LOG_BYTES`].
    pub log_bytes: u64,
    /// See [`CLOSE`].
    pub close: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            lookups: LOOKUPS,
            pipes: PIPES,
            head: HEAD,
            idle: IDLE,
            stall: STALL,
            hello: HELLO,
            resolve: RESOLVE,
            resolve_beside_upstream: RESOLVE_BESIDE_UPSTREAM,
            connect: CONNECT,
            connect_one: CONNECT_ONE,
            bytes: BYTES,
            log_bytes: LOG_BYTES,
            close: CLOSE,
        }
    }
}
