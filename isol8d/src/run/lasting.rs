//! A run in a session, or in a sandbox that is kept: its terms, its sandbox, and
//! the packages that are put there.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use isol8_core::{
    config::Policy,
    failure::{Failure, FailureKind},
    layer::LayerId,
    outcome::Counters,
    package::Package,
    request::RunRequest,
    runtime::Runtime,
    sandbox::{Network, SandboxKey},
};
use isol8_proto::v1;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Job,
    lease::limits_of,
    packages::{Packages, lacks_base},
    phase,
    seat::{Holder, Seat},
};
use crate::{
    convert,
    daemon::Daemon,
    files::Memory,
    install::copy,
    outbox::Outbox,
    session::{self, Kept, Turn, record::Record},
};

/// A reading of the counters that takes longer is done without.
const COUNTERS: Duration = Duration::from_secs(1);

/// What a run has to do about the packages of a sandbox that lasts.
#[derive(Debug)]
pub(super) struct Wanted {
    /// All that it will have.
    pub(super) packages: BTreeSet<Package>,
    /// Where they are to be copied from.
    pub(super) layer: Option<LayerId>,
}

/// Checks a request against the session that it wants, and takes over what that
/// one has, which may be more than the policy still allows.
///
/// # Errors
/// `SessionMismatch`, with both values; `Forbidden` names the rule.
pub(super) fn fit(
    request: &mut RunRequest,
    record: &Record,
    policy: &Policy,
) -> Result<(), Failure> {
    let Some(ask) = &request.session else {
        return Ok(());
    };
    let name = ask.name.clone();
    ask.given
        .check(&ask.name, request.runtime, &record.key, &record.limits)?;
    let key = &record.key;
    request.engine = Some(key.engine);
    request.network = key.network;
    request.image.clone_from(&key.image);
    request.writable = key.writable;
    request.limits.sandbox_size = key.sandbox_size;
    request.limits.tmp_size = key.tmp_size;
    request.limits.memory = record.limits.memory;
    request.limits.cpu = record.limits.cpu;
    request.limits.pids = record.limits.pids;
    if key.network != Network::Filtered {
        request.hosts = isol8_core::request::Hosts::default();
    }
    convert::check_session(request, policy).map_err(|failure| {
        let failure = failure.cause("the session was made when the policy was another one");
        failure.hint(format!("`isol8 session rm {name}`, then make it anew"))
    })
}

/// Where packages of a sandbox that lasts do not come from. An installer in it
/// would work beside what an earlier run has left, and be told by that from where
/// packages come, for everybody.
///
/// # Errors
/// `InvalidRequest`.
pub(super) fn check_packages(request: &RunRequest) -> Result<(), Failure> {
    let lasts = request.session.is_some() || request.persist;
    if lasts && request.no_install_cache && !request.install.is_empty() {
        let message = "a sandbox that lasts gets its packages from the cache";
        return Err(convert::invalid(message).hint("leave `--no-install-cache` out"));
    }
    Ok(())
}

/// What a request for a new session may not say. Any other request passes.
///
/// # Errors
/// `InvalidRequest`.
pub(super) fn check_new(request: &mut RunRequest) -> Result<(), Failure> {
    let Some(ask) = &request.session else {
        return Ok(());
    };
    if request.network == Network::Filtered {
        return Ok(());
    }
    if ask.given.filters {
        return Err(convert::useless_with(request.network, "filter"));
    }
    request.hosts = isol8_core::request::Hosts::default();
    Ok(())
}

/// Whether a session has everything that is to be installed. Where not, what it
/// has is added to that: a package manager must see all of it to choose versions
/// that fit together.
///
/// # Errors
/// `SessionMismatch` for packages of the system, which are part of a sandbox from
/// its beginning.
pub(super) fn has_all(request: &mut RunRequest, record: &Record) -> Result<bool, Failure> {
    let asked: BTreeSet<Package> = request.install.iter().cloned().collect();
    if asked.is_subset(&record.packages) {
        return Ok(true);
    }
    if request.runtime == Runtime::Bash {
        let missing: Vec<&str> = asked
            .difference(&record.packages)
            .map(Package::as_str)
            .collect();
        let message = format!("the session was made without {}", missing.join(", "));
        return Err(Failure::new(FailureKind::SessionMismatch, message)
            .cause("packages of bash are part of the system, which a session cannot change")
            .hint("begin another session with them: `--session <name>`"));
    }
    request.install = asked.union(&record.packages).cloned().collect();
    Ok(false)
}

/// The sandbox of a session in which nothing is to be installed.
pub(super) async fn as_it_is(
    daemon: &Daemon,
    request: &RunRequest,
    record: &Record,
) -> (SandboxKey, Packages) {
    let key = record.key.clone();
    if request.install.is_empty() {
        return (key, Packages::None);
    }
    let identity = match daemon.roster.engine(key.engine) {
        // Without it, no registry is known and none is opened.
        Ok(engine) => engine.identity(&key).await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    (key, Packages::InSession { identity })
}

impl Wanted {
    /// The packages of a sandbox that lasts are copied into it: what is mounted
    /// could not be added to. Those of the system are mounted, or in the image.
    pub(super) fn of(request: &RunRequest, key: &mut SandboxKey) -> Self {
        let layer = match request.runtime.install_folder() {
            Some(_) => key.layer.take(),
            None => None,
        };
        Self {
            packages: request.install.iter().cloned().collect(),
            layer,
        }
    }
}

/// The sandbox for a run that is to last. Makes it where it is not there yet,
/// building its image first where that is missing: that time is not the run's.
/// `None` when the run's time was over before.
pub(super) async fn seat(
    daemon: &Daemon,
    job: &Job,
    key: &SandboxKey,
    turn: Option<Turn>,
    wanted: &Wanted,
    deadline: &mut Instant,
) -> Result<Option<Seat>, Failure> {
    let request = &job.request;
    let (mut warm, mut made) = (true, None);
    if turn.as_ref().is_none_or(|turn| turn.record().is_none()) {
        warm = false;
        let terms = terms(job, key, wanted);
        let fresh = make(daemon, &terms, request, &job.outbox, deadline).await?;
        let Some(fresh) = fresh else {
            return Ok(None);
        };
        made = Some(fresh);
    }
    // In this order: the stream is closed before its owner hears that it is.
    let (mut holder, mut sandbox) = match (turn, made) {
        (Some(mut turn), made) => {
            if let Some(fresh) = made {
                turn.fill(fresh);
            }
            let sandbox = turn.lend().map_err(|error| {
                Failure::new(FailureKind::HostLacks, "no descriptor is left").because(&error)
            })?;
            (Holder::Session(Box::new(turn)), sandbox)
        }
        (None, Some(fresh)) => {
            let (kept, sandbox) = Kept::new(&daemon.sessions, fresh);
            (Holder::Kept(kept), sandbox)
        }
        (None, None) => unreachable!("without a turn it was made"),
    };
    let engine = Arc::clone(holder.engine());
    let memory = Memory::new(&engine, &sandbox.id, key, limits_of(request));
    if let (Some(layer), Some(folder)) = (&wanted.layer, request.runtime.install_folder()) {
        let layers = daemon.state_dir.join("layers");
        let tree = layers.join(layer.as_str()).join("tree");
        let copied = memory.lend(copy::copy(&mut sandbox.link, &memory, &tree, folder));
        job.outbox.event(phase(v1::Phase::Install));
        match timeout_at(*deadline, copied).await {
            Ok(copied) => copied?,
            Err(_) => return Ok(None),
        }
        if let Holder::Session(turn) = &mut holder {
            let packages = wanted.packages.clone();
            turn.note(|record| record.packages = packages).await?;
        }
    }
    if let Holder::Session(turn) = &mut holder
        && request.persist
        && turn.record().is_some_and(|record| !record.persist)
    {
        turn.note(|record| record.persist = true).await?;
    }
    let reading = timeout(COUNTERS, engine.counters(&sandbox.id));
    let baseline: Option<Counters> = reading.await.ok().and_then(Result::ok);
    let held = baseline.map(|counters| counters.memory_bytes);
    memory.take_back(held).await;
    Ok(Some(Seat {
        sandbox,
        warm,
        parked: false,
        baseline,
        holder,
    }))
}

fn terms(job: &Job, key: &SandboxKey, wanted: &Wanted) -> session::Terms {
    let request = &job.request;
    // Those that are copied are written down when they are there.
    let packages = match wanted.layer {
        None => wanted.packages.iter().cloned().collect(),
        Some(_) => Vec::new(),
    };
    session::Terms {
        owner: job.principal,
        name: request.session.as_ref().map(|ask| ask.name.clone()),
        key: key.clone(),
        limits: limits_of(request),
        packages,
        persist: request.persist,
    }
}

async fn make(
    daemon: &Daemon,
    terms: &session::Terms,
    request: &RunRequest,
    outbox: &Outbox,
    deadline: &mut Instant,
) -> Result<Option<session::Fresh>, Failure> {
    match timeout_at(*deadline, daemon.sessions.make(terms.clone())).await {
        Ok(Err(failure)) if lacks_base(&failure, request) => {
            let began = Instant::now();
            daemon.prepare(&terms.key, outbox).await?;
            *deadline += began.elapsed();
        }
        Ok(made) => return made.map(Some),
        Err(_) => return Ok(None),
    }
    match timeout_at(*deadline, daemon.sessions.make(terms.clone())).await {
        Ok(made) => made.map(Some),
        Err(_) => Ok(None),
    }
}
