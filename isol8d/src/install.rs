//! Packages of a run: what installs them, and what is kept of them.
//!
//! ```text
//!  packages ──▶ recipe (command lines) ──▶ errands in a sandbox ──▶ folder in /sandbox
//!                  registry (hosts) ──▶ filter of the network ──┘         └──▶ layer
//! ```
//! The same happens in a sandbox made for a layer ([`crate::layers`]) and, where
//! the cache is not wanted, in the run's own. An installer gets nothing of what
//! a run was given but the names of the packages: no environment, no secrets, no
//! program, no standard input.

use std::collections::BTreeSet;

use isol8_core::{
    config::NetworkConfig,
    egress::{record::Action, rules::Filter},
    failure::{Failure, FailureKind},
    outcome::Counters,
    package::Package,
    request::Hosts,
    runtime::Runtime,
    sandbox::Network,
};
use isol8_engine::Interpreter;

use crate::{egress::Report, layers::registries::Registries};

pub(crate) mod apt;
pub(crate) mod copy;
pub(crate) mod errand;
pub(crate) mod recipe;
pub(crate) mod registry;
pub(crate) mod requests;
pub(crate) mod site;
pub(crate) mod sources;
pub(crate) mod transcript;

use apt::Apt;
use errand::{Ended, ErrandError};
use recipe::{Must, Order, Step};
use registry::World;
use site::{Site, closed_but, lost, unlisted};
use transcript::Transcript;

/// What is installed, for whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) runtime: Runtime,
    pub(crate) packages: &'a [Package],
    /// The result becomes a layer.
    pub(crate) for_layer: bool,
    /// See [`Order::of_host`].
    pub(crate) of_host: bool,
    /// Of the engine, for this sandbox.
    pub(crate) identity: &'a str,
    /// For packages of the system.
    pub(crate) apt: Option<&'a Apt>,
    /// The lists of the run, and what the configuration says.
    pub(crate) filter: &'a Filter,
    pub(crate) registries: &'a Registries,
    /// Where the installer's words go.
    pub(crate) text: &'a Transcript,
}

impl<'a> Job<'a> {
    pub(crate) fn order(&self, interpreter: &'a Interpreter, network: Network) -> Order<'a> {
        Order {
            runtime: self.runtime,
            interpreter,
            network,
            packages: self.packages,
            for_layer: self.for_layer,
            of_host: self.of_host,
            apt: self.apt,
        }
    }
}

/// The lists of a run as a filter, without registries.
pub(crate) fn filter(hosts: &Hosts, config: &NetworkConfig) -> Filter {
    Filter {
        allow: hosts.allow.clone(),
        deny: hosts.deny.clone(),
        registries: Vec::new(),
        allow_private: config.allow_private.clone(),
        ports: config.ports.clone(),
    }
}

/// Hosts that the packages name themselves.
pub(crate) fn named(packages: &[Package]) -> BTreeSet<String> {
    let hosts = packages.iter().filter_map(Package::host);
    hosts.map(ToString::to_string).collect()
}

/// Installs. Nothing runs in the sandbox before and after.
///
/// # Errors
/// `InstallFailed` with the last lines of the installer, `NoSpace`,
/// `EgressUnavailable`; `Internal` where the sandbox is gone.
///
/// # Cancellation
/// Not cancel safe: the sandbox is to be destroyed.
pub(crate) async fn install(site: &mut Site<'_>, job: &Job<'_>) -> Result<(), Failure> {
    let interpreter = site.interpreter;
    let order = job.order(interpreter, site.network);
    site.check_door()?;
    for file in job.apt.map(Apt::files).unwrap_or_default() {
        site.send(file).await?;
    }
    prepare(site, &order).await?;
    let hosts = learn(site, job, &order).await?;
    let hosts: Vec<String> = hosts.into_iter().collect();
    site.open(&closed_but(&hosts, job.filter)).await?;
    let mut failed = None;
    for step in order.install() {
        if let Some(why) = carry_out(site, &step, job.text).await? {
            failed = Some(why);
            break;
        }
    }
    let report = site.requests.close().await;
    if let Some(why) = failed {
        return Err(explain(site, job, why, &report).await);
    }
    // Nothing that a script of a package started goes on beside the program, or
    // changes what is being read.
    site.sweep().await?;
    site.ask(&order.tidy())
        .await
        .map_err(|error| lost(&error))?;
    Ok(())
}

/// Makes the folders that the other steps need.
async fn prepare(site: &mut Site<'_>, order: &Order<'_>) -> Result<(), Failure> {
    let said = Transcript::new();
    let take = |_: bool, bytes: &bytes::Bytes| said.add(bytes);
    let ended = errand::run(site.link, &order.prepare(), take).await;
    let ended = ended.map_err(|error| lost(&error))?;
    if ended.is_good() {
        return Ok(());
    }
    let mut failure = if is_full(&said) {
        let message = "there is no room in /sandbox to install anything";
        Failure::new(FailureKind::NoSpace, message).hint("raise `--sandbox-size`")
    } else {
        let message = format!(
            "/sandbox cannot be made ready for an installer: {}",
            how(ended)
        );
        Failure::new(FailureKind::InstallFailed, message)
    };
    failure.causes = said.last_lines();
    Err(failure)
}

/// Learns from where the packages of a job come. Gives all hosts, those that the
/// packages name included; none where the network has no filter.
pub(crate) async fn learn(
    site: &mut Site<'_>,
    job: &Job<'_>,
    order: &Order<'_>,
) -> Result<BTreeSet<String>, Failure> {
    if site.network != Network::Filtered {
        return Ok(BTreeSet::new());
    }
    let mut all = named(job.packages);
    for (world, package) in registry::worlds(job.runtime, job.packages) {
        if let Some(known) = job.registries.get(job.identity, world) {
            all.extend(known);
            continue;
        }
        let (hosts, settled) = explore(site, job, order, world, &package).await?;
        if settled {
            job.registries.put(job.identity, world, hosts.clone());
        }
        all.extend(hosts);
    }
    Ok(all)
}

/// Asks the tool, then lets it try. Also says whether that was all: a package
/// that does not exist teaches nothing.
async fn explore(
    site: &mut Site<'_>,
    job: &Job<'_>,
    order: &Order<'_>,
    world: World,
    package: &Package,
) -> Result<(BTreeSet<String>, bool), Failure> {
    let mut hosts = BTreeSet::new();
    if let Some(step) = registry::question(order, world) {
        let asked = site.ask(&step).await;
        if matches!(&asked, Err(error) if error.is_missing()) {
            return Err(no_installer(job.runtime));
        }
        let (ended, output) = asked.map_err(|error| lost(&error))?;
        let answer = ended
            .is_good()
            .then(|| registry::read(order, world, &output));
        let Some(answer) = answer.flatten() else {
            return Err(no_installer(job.runtime));
        };
        hosts = answer.hosts;
        if answer.complete {
            return Ok((hosts, true));
        }
    }
    let Some(attempt) = registry::attempt(order, world, package) else {
        return Ok((hosts, true));
    };
    let no_lists = Filter {
        allow: Vec::new(),
        ..job.filter.clone()
    };
    for _ in 0..registry::MOST_ROUNDS {
        let open: Vec<String> = hosts.iter().cloned().collect();
        let tried = site
            .attempt(&attempt, &closed_but(&open, &no_lists))
            .await?;
        let before = hosts.len();
        match registry::read(order, world, &tried.output) {
            Some(answer) if world == World::Pip => hosts.extend(answer.hosts),
            _ => hosts.extend(unlisted(&tried.report)),
        }
        if hosts.len() == before || world == World::Pip {
            return Ok((hosts, tried.ended.is_good()));
        }
    }
    Ok((hosts, false))
}

/// Why a step ended the installation.
enum Why {
    Ended(Ended),
    NoInstaller,
}

async fn carry_out(
    site: &mut Site<'_>,
    step: &Step,
    text: &Transcript,
) -> Result<Option<Why>, Failure> {
    let show = step.must == Must::Succeed;
    let take = |_: bool, bytes: &bytes::Bytes| {
        if show {
            text.add(bytes);
        }
    };
    match errand::run(site.link, step, take).await {
        Ok(ended) if ended.is_good() => Ok(None),
        Ok(_) if step.must == Must::Try => Ok(None),
        Ok(_) if step.must == Must::BeThere => Ok(Some(Why::NoInstaller)),
        Ok(ended) => Ok(Some(Why::Ended(ended))),
        Err(error) if error.is_missing() => Ok(Some(Why::NoInstaller)),
        // The kernel may have taken init with the installer.
        Err(ErrandError::Lost(_)) => Ok(Some(Why::Ended(Ended::Signal(SIGKILL)))),
        Err(error) => Err(lost(&error)),
    }
}

const SIGKILL: i32 = 9;

fn no_installer(runtime: Runtime) -> Failure {
    Failure::new(
        FailureKind::InstallFailed,
        format!("there is no package manager for {runtime} that could install anything"),
    )
    .hint(recipe::how_to_get(runtime))
}

/// From a failed installation to what a person can do about it.
async fn explain(site: &mut Site<'_>, job: &Job<'_>, why: Why, report: &Report) -> Failure {
    let ended = match why {
        Why::NoInstaller => return no_installer(job.runtime),
        Why::Ended(ended) => ended,
    };
    let names: Vec<&str> = job.packages.iter().map(Package::as_str).collect();
    let message = format!("cannot install {}: {}", names.join(", "), how(ended));
    let mut failure = Failure::new(FailureKind::InstallFailed, message);
    failure.causes = job.text.last_lines();
    let counters = site.engine.counters(site.id).await.ok();
    let hint = hint(site, counters, report, job.text);
    failure.hint(hint)
}

fn how(ended: Ended) -> String {
    match ended {
        Ended::Code(code) => format!("the installer ended with {code}"),
        Ended::Signal(signal) => format!("signal {signal} ended the installer"),
    }
}

/// Nobody else can say it: what did not fit is gone by now. The kernel's words,
/// in the language that every installer is given.
fn is_full(text: &Transcript) -> bool {
    let words = ["No space left on device", "Disk quota exceeded", "ENOSPC"];
    let full = |line: &String| words.iter().any(|word| line.contains(word));
    text.last_lines().iter().any(full)
}

fn hint(site: &Site<'_>, counters: Option<Counters>, report: &Report, text: &Transcript) -> String {
    let before = site.baseline.unwrap_or_default();
    if let Some(now) = counters
        && now.oom_kills > before.oom_kills
    {
        return "the memory limit ended it: raise `--memory`".to_owned();
    }
    let blocked: BTreeSet<String> = unlisted(report).collect();
    if let Some(host) = blocked.first() {
        let pattern = host.replace('.', "\\.");
        return format!(
            "the network filter blocked `{host}`; where it is to be trusted, add `--allow '{pattern}'`"
        );
    }
    let mut blocked = report
        .records
        .iter()
        .filter(|record| record.action == Action::Block);
    if let Some(record) = blocked.next() {
        let (host, reason) = (&record.host, &record.reason);
        return format!(
            "the network filter blocked `{host}`: {reason}; change `--deny` or the configuration"
        );
    }
    if is_full(text) {
        return "/sandbox or /tmp was full: raise `--sandbox-size` or `--tmp-size`".to_owned();
    }
    match site.network {
        Network::None => {
            "an installer needs a network: leave `--net none` out, so that it can reach its registry"
        }
        _ => "check the names and versions; `--memory`, `--sandbox-size` and `--pids-limit` bound the installer too",
    }
    .to_owned()
}
