//! The filtered network of one run: opened before its program starts, closed and
//! accounted for behind it.

use std::os::fd::OwnedFd;

use isol8_core::{
    egress::{
        record::{Action, Record},
        redact::Redactor,
        rules::Filter,
    },
    failure::Failure,
    ids::SandboxId,
    request::RunRequest,
    sandbox::Network,
};
use isol8_proto::v1::{self, run_event::Event};

use crate::{
    daemon::Daemon,
    egress::{Report, Traffic},
    install::{self, site},
    outbox::Outbox,
};

/// Requests in one event.
const PIECE: usize = 100;

/// Lets the program of a run reach what its lists permit, and what its packages
/// came from. `None`: its network has no filter.
///
/// # Errors
/// `EgressUnavailable`.
pub(super) async fn open(
    daemon: &Daemon,
    request: &RunRequest,
    id: &SandboxId,
    listener: Option<&OwnedFd>,
    registries: &[String],
) -> Result<Option<Traffic>, Failure> {
    if request.network != Network::Filtered {
        return Ok(None);
    }
    let listener = site::listener(listener)?;
    let filter = filter(daemon, request, registries);
    daemon.egress.open(id, listener, &filter).await.map(Some)
}

fn filter(daemon: &Daemon, request: &RunRequest, registries: &[String]) -> Filter {
    let filter = install::filter(&request.hosts, &daemon.config.network);
    if request.install.is_empty() {
        return filter;
    }
    // Packages of which it is not known where they come from open nothing.
    site::closed_but(registries, &filter)
}

/// The line for a run that may reach the whole world.
pub(super) fn open_notice(request: &RunRequest) -> Option<Event> {
    let lists = &request.hosts;
    let open = request.network == Network::Filtered
        && request.install.is_empty()
        && lists.allow.is_empty()
        && lists.deny.is_empty();
    open.then(|| {
        notice("every public host is open: name the hosts that this run may reach with `--allow`")
    })
}

fn notice(message: &str) -> Event {
    Event::Notice(v1::Notice {
        message: message.to_owned(),
    })
}

/// Takes the secrets of a run out of what is going to be told and written.
pub(super) fn redact(report: &mut Report, request: &RunRequest) {
    let redactor = Redactor::new(&request.secrets).expect("the gate has checked them");
    for record in &mut report.records {
        *record = redactor.redact(record);
    }
}

/// Tells the client what went through the filter. It is [`redact`]ed.
pub(super) fn tell(report: &Report, request: &RunRequest, outbox: &Outbox) {
    if report.lost {
        outbox.event(notice(
            "the network filter was restarted during this run: its log of requests may be incomplete",
        ));
    }
    if !request.log_network {
        return;
    }
    for piece in report.records.chunks(PIECE) {
        let requests = piece.iter().map(to_wire).collect();
        outbox.event(Event::Network(v1::NetworkLog { requests }));
    }
}

fn to_wire(record: &Record) -> v1::NetworkRequest {
    let action = match record.action {
        Action::Allow => v1::NetworkAction::Allow,
        Action::Block => v1::NetworkAction::Block,
    };
    v1::NetworkRequest {
        timestamp_ms: record.timestamp_ms,
        method: record.method.clone(),
        host: record.host.clone(),
        port: record.port.into(),
        path: record.path.clone(),
        action: action.into(),
        reason: record.reason.clone(),
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        duration_us: u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt as _, StreamExt as _};
    use isol8_core::config::Config;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::outbox::outbox;

    fn request(change: impl FnOnce(&mut v1::Start)) -> RunRequest {
        let mut start = v1::Start {
            runtime: v1::Runtime::Python.into(),
            network: v1::NetworkMode::Filtered.into(),
            ..Default::default()
        };
        change(&mut start);
        crate::convert::run_request(start, &Config::default()).expect("good")
    }

    fn record(path: &str) -> Record {
        Record {
            timestamp_ms: 1,
            method: "GET".to_owned(),
            host: "hunter22.example.org".to_owned(),
            port: 80,
            path: Some(path.to_owned()),
            action: Action::Block,
            reason: "denied by `HUNTER22`".to_owned(),
            bytes_in: 1,
            bytes_out: 2,
            duration: Duration::from_micros(3),
        }
    }

    #[test]
    fn the_log_comes_in_pieces_and_without_secrets() {
        let quiet = request(|start| {
            start.secrets.insert("K".to_owned(), "HUNTER22".to_owned());
        });
        let mut report = Report {
            records: vec![record("/?k=HUNTER22"); 250],
            lost: true,
            ..Report::default()
        };
        redact(&mut report, &quiet);
        let (outbox, mut events) = outbox(CancellationToken::new().drop_guard());
        tell(&report, &quiet, &outbox);
        tell(&report, &request(|start| start.log_network = true), &outbox);
        let (mut pieces, mut notices) = (Vec::new(), 0);
        while let Some(Some(Ok(event))) = events.next().now_or_never() {
            let shown = format!("{event:?}");
            assert!(!shown.to_lowercase().contains("hunter22"), "{shown}");
            match event.event {
                Some(Event::Network(log)) => pieces.push(log.requests.len()),
                Some(Event::Notice(_)) => notices += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pieces, [100, 100, 50]);
        assert_eq!(notices, 2);
    }

    #[test]
    fn only_an_open_run_is_told_so() {
        assert!(open_notice(&request(|_| {})).is_some());
        let install = |start: &mut v1::Start| start.install.push("six".to_owned());
        assert!(open_notice(&request(install)).is_none());
        let listed = |start: &mut v1::Start| {
            let filter = start.filter.get_or_insert_default();
            filter
                .deny
                .get_or_insert_default()
                .patterns
                .push("evil".to_owned());
        };
        assert!(open_notice(&request(listed)).is_none());
        let none = |start: &mut v1::Start| start.network = v1::NetworkMode::None.into();
        assert!(open_notice(&request(none)).is_none());
    }
}
