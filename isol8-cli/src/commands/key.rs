//! `isol8 key`: the keys of `isol8 serve`, in their database.

mod add;
mod ls;
mod when;

use std::path::PathBuf;

use isol8_core::failure::{Failure, FailureKind};
use isol8_gateway::{KeyName, Rotation, Store};
use jiff::Timestamp;

use super::{answer, answer_json, table};
use crate::{
    args::{KeyArgs, KeyCommand},
    console::Console,
    exit::Exit,
    paths::Paths,
};

/// Beside what the daemon keeps.
const DATABASE: &str = "keys.db";

pub(super) fn key(args: KeyArgs, paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let path = match args.keys_db {
        Some(path) => path,
        None => database(paths)?,
    };
    match args.command {
        KeyCommand::Add(args) => add::add(&args, &path, console),
        KeyCommand::Ls { json } => ls::ls(&path, json, console),
        KeyCommand::Rm { names } => {
            let names = names.iter().map(|name| parse_name(name));
            let names: Vec<_> = names.collect::<Result<_, _>>()?;
            let mut store = existing(&path, &names)?;
            for name in names {
                store.remove(&name)?;
                console.say(&format!("removed `{name}`"));
            }
            Ok(Exit::Done)
        }
        KeyCommand::Rotate {
            name,
            keep,
            expires,
        } => {
            let now = Timestamp::now();
            let rotation = Rotation {
                keep: when::span("--keep", keep.as_deref(), now)?,
                expires: when::moment("--expires", expires.as_deref(), now)?,
            };
            let name = parse_name(&name)?;
            let mut store = existing(&path, std::slice::from_ref(&name))?;
            store.rotate(&name, &rotation, now, show)?;
            console.say(&match rotation.keep {
                None => format!("`{name}` has this new text, the one before works no more"),
                Some(until) => {
                    format!("`{name}` has this new text, the one before works until {until:.0}")
                }
            });
            warn_expired(&store, &name, now, console)?;
            Ok(Exit::Done)
        }
    }
}

/// Where the database is when nothing else is said.
///
/// # Errors
/// The environment names no home.
pub(super) fn database(paths: &Paths) -> Result<PathBuf, Failure> {
    Ok(paths.state_dir()?.join(DATABASE))
}

fn parse_name(text: &str) -> Result<KeyName, Failure> {
    let wrong = |error: isol8_gateway::WrongName| {
        Failure::new(FailureKind::InvalidRequest, error.to_string())
            .hint("write it like `isol8 key add ci`")
    };
    text.parse().map_err(wrong)
}

/// The database, which must have been made before.
fn existing(path: &std::path::Path, names: &[KeyName]) -> Result<Store, Failure> {
    Store::find(path)?.ok_or_else(|| {
        let name = names.first().map_or("", KeyName::as_str);
        Failure::new(FailureKind::NotFound, format!("there is no key `{name}`"))
            .cause(format!("there is no key database `{}`", path.display()))
            .hint("`isol8 key add <name>` makes one")
    })
}

/// Prints the text of a key. Where nobody takes it, there is no such key.
fn show(text: &str) -> Result<(), Failure> {
    match answer(format!("{text}\n").as_bytes())? {
        Exit::StdoutClosed => {
            let message = "nobody reads stdout, so nothing was changed";
            Err(Failure::new(FailureKind::NoSpace, message)
                .cause("the text of a key is printed there, and nowhere else"))
        }
        _ => Ok(()),
    }
}

fn warn_expired(
    store: &Store,
    name: &KeyName,
    now: Timestamp,
    console: &Console,
) -> Result<(), Failure> {
    let listed = store.list()?;
    let mut expired = listed.iter().flatten().filter(|key| {
        let is_over = key.expires.is_some_and(|expires| expires <= now);
        is_over && key.name == name.as_str()
    });
    if expired.next().is_some() {
        console.warning(&format!(
            "`{name}` has expired and opens nothing; renew it with `--expires`"
        ));
    }
    Ok(())
}
