//! How much of everything the gateway takes, and how long it waits.

use std::time::Duration;

/// Bounds of one gateway. The defaults are for a gateway on a small machine.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// For a whole request head; also how long a kept connection may be idle.
    pub header: Duration,
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// For a whole body, and for the room to hold an answer.
    pub body: Duration,
    /// Bytes of a body; more is 413.
    pub body_bytes: usize,
    /// Bytes of all bodies that are held at once; who finds no room waits.
    pub bodies_bytes: usize,
    /// Bytes of all answers that are held at once, as far as they may be large.
    pub answers_bytes: usize,
    /// How long a client may take nothing of what is written to it.
    pub write_idle: Duration,
    /// For answers that are no runs.
    pub answer: Duration,
    /// For `/execute`: its own time limit ends a run long before.
    pub execute: Duration,
    /// Between two comment lines of a stream that has nothing to say.
    pub comment: Duration,
    /// Connections that are served at once. As many again as a quarter of it are
    /// told 429; the rest waits in the kernel's queue.
    pub connections: usize,
    /// WebSockets that are open at once; one more is 429.
    pub sockets: usize,
    /// Sessions and kept sandboxes of all keys: what the daemon lets one caller have.
    pub sessions: usize,
    /// Runs of one key at once; one more is 429.
    pub runs_per_key: usize,
    /// From the order to stop until open connections are cut.
    pub grace: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(15),
            header_bytes: 32 << 10,
            body: Duration::from_secs(60),
            body_bytes: 20 << 20,
            bodies_bytes: 160 << 20,
            answers_bytes: 256 << 20,
            write_idle: Duration::from_secs(60),
            answer: Duration::from_secs(120),
            execute: Duration::from_secs(3600),
            comment: Duration::from_secs(15),
            connections: 512,
            sockets: 64,
            sessions: 64,
            runs_per_key: 64,
            grace: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_the_defaults() {
        let page = include_str!("../../../docs/http.md");
        let of = |what: &str| {
            let row = page
                .lines()
                .find(|line| line.starts_with(&format!("| {what}")));
            let row = row.unwrap_or_else(|| panic!("no row says `{what}`"));
            row.trim_end_matches(" |")
                .rsplit("| ")
                .next()
                .unwrap_or(row)
        };
        let bounds = Bounds::default();
        let time = |what, bound: Duration| {
            assert_eq!(of(what), format!("{} s", bound.as_secs()), "{what}");
        };
        let mib = |what, bytes: usize| {
            assert_eq!(of(what), format!("{} MiB", bytes >> 20), "{what}");
        };
        let count = |what, count: usize| assert_eq!(of(what), count.to_string(), "{what}");
        time("time for a request head", bounds.header);
        time("time for a body", bounds.body);
        time("time in which a client takes nothing", bounds.write_idle);
        time("time for an answer", bounds.answer);
        time("time for `/execute`", bounds.execute);
        time("time from the order to stop", bounds.grace);
        assert_eq!(
            of("a request head"),
            format!("{} KiB", bounds.header_bytes >> 10)
        );
        mib("a body", bounds.body_bytes);
        mib("all bodies", bounds.bodies_bytes);
        mib("all answers", bounds.answers_bytes);
        count("connections", bounds.connections);
        count("WebSockets", bounds.sockets);
        count("sessions", bounds.sessions);
        count("runs of one key", bounds.runs_per_key);
        let every = format!("Every {} seconds", bounds.comment.as_secs());
        assert!(page.contains(&every), "{every}");
    }
}
