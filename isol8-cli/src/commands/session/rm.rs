//! `isol8 session rm`.

use std::ffi::{OsStr, OsString};

use isol8_core::{failure::Failure, session::SessionName};
use isol8_proto::v1::{DeleteRequest, RemoveSessionRequest};

use super::{
    Client, answer, client,
    place::{Inside, Place},
    wrong,
};
use crate::{
    connect::unwanted, console::Console, exit::Exit, paths::Paths, plan::session_name, report,
};

/// How far it may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) force: bool,
    pub(super) recursive: bool,
}

/// What is to be removed.
#[derive(Debug, PartialEq, Eq)]
enum Thing {
    Session(SessionName),
    File(Inside),
}

/// Removes one thing after the other. What cannot be removed keeps no other from
/// it, and is told.
pub(super) async fn rm(
    places: &[OsString],
    how: How,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let things = places.iter().map(|place| thing(place));
    let things: Vec<Thing> = things.collect::<Result<_, _>>()?;
    check(&things, how)?;
    let (_, mut client) = client(paths, console).await?;
    let mut exit = Exit::Done;
    let count = things.len();
    for thing in things {
        let removed = match thing {
            Thing::Session(name) => remove(&mut client, &name, how, console).await,
            Thing::File(file) => delete(&mut client, &file, how).await,
        };
        match removed {
            Ok(Exit::Done) => {}
            Ok(other) => return Ok(other),
            Err(failure) => {
                console.failure(&failure);
                // Where one of several was just typed wrong, something failed.
                exit = match exit {
                    Exit::Done if count == 1 => Exit::of(&failure),
                    _ => Exit::Failed,
                };
            }
        }
    }
    Ok(exit)
}

fn thing(text: &OsStr) -> Result<Thing, Failure> {
    let shown = text.to_string_lossy();
    if !shown.contains(':') {
        let name = session_name(&shown, "isol8 session rm work")?;
        return Ok(Thing::Session(name));
    }
    match Place::parse(text)? {
        // Nobody means to empty a session who leaves the path out.
        Place::Inside(inside) if !shown.ends_with(':') => Ok(Thing::File(inside)),
        Place::Inside(inside) => Err(wrong(format!("`{shown}` names no file")).hint(format!(
            "the session itself is removed with `isol8 session rm {}`",
            inside.session
        ))),
        Place::Here(_) | Place::Standard => Err(wrong(format!("`{shown}` is in no session"))
            .hint("write it like `work:/sandbox/data.csv`")),
    }
}

/// A flag that does nothing was meant to do something.
fn check(things: &[Thing], how: How) -> Result<(), Failure> {
    let session = |thing: &Thing| matches!(thing, Thing::Session(_));
    if how.force && !things.iter().any(session) {
        return Err(wrong("`--force` does nothing for files")
            .hint("leave it out; with a folder, `--recursive` is what you mean"));
    }
    if how.recursive && things.iter().all(session) {
        return Err(wrong("`--recursive` does nothing for sessions")
            .hint("leave it out; a session goes with everything in it"));
    }
    Ok(())
}

async fn remove(
    client: &mut Client,
    name: &SessionName,
    how: How,
    console: &Console,
) -> Result<Exit, Failure> {
    let request = RemoveSessionRequest {
        name: name.as_str().to_owned(),
        force: how.force,
    };
    let removed = client.remove(request).await;
    let removed = removed.map_err(|status| unwanted(&status))?.into_inner();
    let exit = answer(format!("removed {name}\n").as_bytes())?;
    if !removed.kept_sandbox_id.is_empty() {
        console.note(&report::how_to_look(&removed.kept_sandbox_id));
    }
    Ok(exit)
}

async fn delete(client: &mut Client, file: &Inside, how: How) -> Result<Exit, Failure> {
    let request = DeleteRequest {
        session: file.session.as_str().to_owned(),
        path: file.path.clone().into(),
        recursive: how.recursive,
    };
    let deleted = client.delete(request).await;
    deleted.map_err(|status| unwanted(&status))?;
    Ok(Exit::Done)
}
