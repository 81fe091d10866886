//! Puts a real daemon together: configuration, folders, kit, engines.

use std::{env, fs, io, path::PathBuf, sync::Arc, time::Duration};

use isol8_core::{
    config::{
        Cleanup, Config, Seccomp,
        layer::Layer,
        search::{CONFIG_VARIABLE, Seeker, candidates},
    },
    failure::{Failure, FailureKind},
    sandbox::EngineKind,
};
use isol8_engine::{
    Engine, Place,
    docker::{DockerEngine, DockerSettings},
    native::NativeEngine,
    presence::Presence,
};
use isol8_proto::v1::Check;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    convert,
    daemon::Parts,
    doctor,
    egress::EgressSettings,
    kit, layers,
    paths::{Paths, Wishes, unusable},
    roster::Roster,
    session::store::Store,
};

/// Reads the configuration of a daemon: `named` if given, else the first file of
/// the search. Never looks at the working directory.
///
/// # Errors
/// A file that cannot be read or understood, or asks for what this version does
/// not do: a daemon that is weaker than its configuration does not start.
pub fn configuration(named: Option<PathBuf>) -> Result<(Config, String), Failure> {
    let named = named.map(|path| path.to_string_lossy().into_owned());
    let lookup = |name: &str| match &named {
        Some(path) if name == CONFIG_VARIABLE => Some(path.clone()),
        _ => env::var(name).ok(),
    };
    let seeker = if rustix::process::geteuid().is_root() {
        Seeker::SystemDaemon
    } else {
        Seeker::UserDaemon
    };
    let mut layer = None;
    for candidate in candidates(seeker, &lookup) {
        let text = match fs::read_to_string(&candidate.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !candidate.required => {
                continue;
            }
            Err(error) => {
                let path = candidate.path.display();
                let message = format!("cannot read the configuration `{path}`");
                return Err(Failure::new(FailureKind::InvalidRequest, message).because(&error));
            }
        };
        layer = Some(Layer::parse(&text, candidate.path, candidate.trust)?);
        break;
    }
    let resolved = Config::resolve(layer.as_ref(), &lookup)?;
    let source = match &resolved.file {
        Some(path) => path.display().to_string(),
        None => "no file, the defaults".to_owned(),
    };
    check_supported(&resolved.config)?;
    convert::check_configured(&resolved.config.network)?;
    Ok((resolved.config, source))
}

fn check_supported(config: &Config) -> Result<(), Failure> {
    if config.seccomp == Seccomp::Strict {
        return Ok(());
    }
    let key = "security.seccomp";
    let message = format!("`{key}` of the configuration is not there yet");
    Err(Failure::new(FailureKind::NotYet, message).hint(format!("leave `{key}` out")))
}

/// Nobody may come back: then a sandbox that lasts goes when it would have gone
/// anyway, and after a month where sessions never go by themselves.
pub(crate) fn orphaned(cleanup: &Cleanup) -> Duration {
    const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
    const LEAST: Duration = Duration::from_secs(60);
    match cleanup.auto_prune {
        true => cleanup.max_age.clamp(LEAST, MONTH),
        false => MONTH,
    }
}

/// Makes folders, kit and engines. Engines that cannot be set up are left out
/// and remembered with the reason.
///
/// # Errors
/// Folders that cannot be used, no isol8-init, or another daemon on the same
/// state folder.
pub fn assemble(config: Config, config_source: String, paths: Paths) -> Result<Parts, Failure> {
    paths.make()?;
    let id = paths.daemon_id()?;
    let presence = Presence::announce(&id)?;
    let init = kit::find_init()?;
    let ca_bundle = config.network.ca_bundle.as_deref();
    let kit = kit::install(&init, ca_bundle, &paths.state_dir)?;
    // A sandbox that lasts goes on with the kit that it was made with.
    if Store::open(&paths.state_dir, None)?.all().is_empty() {
        kit::remove_others(&paths.state_dir, &kit);
    }
    raise_descriptors();
    let place = Place {
        daemon: id.clone(),
        runtime_dir: canonical(&paths.runtime_dir)?,
        state_dir: canonical(&paths.state_dir)?,
        kit: canonical(&kit)?,
        authorities: ca_bundle.is_some(),
        layers: canonical(&paths.state_dir)?.join("layers"),
        orphaned: orphaned(&config.cleanup),
    };
    let settings = DockerSettings {
        host: config.docker.host.clone(),
        runtime: config.docker.runtime.clone(),
        ca_bundle: config.network.ca_bundle.clone(),
        ..DockerSettings::default()
    };
    let egress = EgressSettings::of(&config, &|name| env::var(name).ok())?;
    let docker = DockerEngine::new(place.clone(), settings);
    let native = NativeEngine::new(place);
    let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
    let mut absent = Vec::new();
    match docker {
        Ok(docker) => engines.push(Arc::new(docker)),
        Err(why) => absent.push((EngineKind::Docker, why)),
    }
    match native {
        Ok(native) => engines.push(Arc::new(native)),
        Err(why) => absent.push((EngineKind::Native, why)),
    }
    let mut roster = Roster::new(engines, config.engine);
    for (kind, why) in absent {
        tracing::warn!(engine = %kind, error = %why, "an engine cannot be set up");
        roster = roster.without(kind, why);
    }
    Ok(Parts {
        config,
        config_source,
        id,
        socket: paths.socket,
        runtime_dir: paths.runtime_dir,
        state_dir: paths.state_dir,
        roster,
        install_room: layers::retention::MOST_BYTES,
        egress,
        presence: Some(presence),
    })
}

/// Checks everything that can stop a run, in a process of its own.
pub async fn examine(named: Option<PathBuf>, wishes: Wishes) -> Vec<Check> {
    let looked = async {
        let (config, source) = configuration(named)?;
        let paths = Paths::choose(wishes)?;
        paths.make()?;
        let mut checks = doctor::host(&paths.runtime_dir, &paths.state_dir, &source);
        match assemble(config, source, paths) {
            Ok(parts) => {
                checks.push(doctor::egress(&parts.egress, &parts.state_dir).await);
                checks.extend(doctor::engines(&parts.roster).await);
            }
            Err(failure) => checks.push(doctor::from_failure("daemon", &failure)),
        }
        Ok(checks)
    };
    let looked: Result<_, Failure> = looked.await;
    looked.unwrap_or_else(|failure| vec![doctor::from_failure("daemon", &failure)])
}

/// A run needs a dozen descriptors, and shells hand out few by default. What runs
/// in a sandbox has limits of its own.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the number of descriptors stays as it is");
    }
}

/// Engines hand paths to the kernel and to other daemons, which may see other
/// links than we do.
fn canonical(path: &PathBuf) -> Result<PathBuf, Failure> {
    fs::canonicalize(path).map_err(|error| unusable(path, &error))
}
