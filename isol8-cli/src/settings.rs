//! The configuration as the command line sees it: the working directory's file
//! first, then the person's own. The gateway has that of the daemon.

use std::{env, fs, io, path::PathBuf};

use isol8_core::{
    config::{
        Config, Resolved,
        layer::Layer,
        search::{Candidate, Seeker, Trust, candidates},
    },
    failure::{Failure, FailureKind},
};
use rustix::process::geteuid;

/// The file that was found, as it stands there.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) trust: Trust,
    pub(crate) text: String,
}

/// The person's own file, which is made where none was found.
pub(crate) fn own_file() -> Option<PathBuf> {
    let lookup = |name: &str| env::var(name).ok();
    let own = candidates(Seeker::UserDaemon, &lookup).into_iter().next();
    own.map(|candidate| candidate.path)
}

/// Finds, reads and resolves the configuration. Where there is no file this is
/// a look at three paths.
///
/// # Errors
/// A file that cannot be read or is wrong; the message names key and line.
pub(crate) fn load() -> Result<Resolved, Failure> {
    load_text().map(|(resolved, _)| resolved)
}

/// As [`load`] for who serves others: what lies in the working directory says
/// nothing, and hides nothing of what the daemon goes by too.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_as_daemon() -> Result<Resolved, Failure> {
    let seeker = match geteuid().is_root() {
        true => Seeker::SystemDaemon,
        false => Seeker::UserDaemon,
    };
    resolve(seeker).map(|(resolved, _)| resolved)
}

/// As [`load`], with the file's text.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_text() -> Result<(Resolved, Option<Found>), Failure> {
    // Without a working directory (it was removed) there is no file in it.
    let working_dir = env::current_dir().unwrap_or_else(|_| PathBuf::from("/nonexistent"));
    resolve(Seeker::Cli {
        working_dir: &working_dir,
    })
}

fn resolve(seeker: Seeker<'_>) -> Result<(Resolved, Option<Found>), Failure> {
    let lookup = |name: &str| env::var(name).ok();
    let (mut layer, mut found) = (None, None);
    for candidate in candidates(seeker, &lookup) {
        if let Some(text) = read(&candidate)? {
            let Candidate { path, trust, .. } = candidate;
            layer = Some(Layer::parse(&text, path.clone(), trust)?);
            found = Some(Found { path, trust, text });
            break;
        }
    }
    Ok((Config::resolve(layer.as_ref(), &lookup)?, found))
}

fn read(candidate: &Candidate) -> Result<Option<String>, Failure> {
    match fs::read_to_string(&candidate.path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if !candidate.required && absent(&error) => Ok(None),
        Err(error) => {
            let shown = candidate.path.display();
            let message = format!("cannot read the configuration `{shown}`");
            let failure = Failure::new(FailureKind::InvalidRequest, message).because(&error);
            Err(match candidate.required {
                true => failure.hint("ISOL8_CONFIG names it; give it another path or unset it"),
                false => failure,
            })
        }
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
