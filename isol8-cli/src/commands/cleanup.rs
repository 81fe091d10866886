//! `isol8 cleanup`.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, IsTerminal as _},
};

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{
    CleanupItem, CleanupKind, CleanupRequest, admin_service_client::AdminServiceClient,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{answer, answer_json};
use crate::{
    args::CleanupArgs,
    connect::{self, unwanted},
    console::{Console, printable},
    exit::Exit,
    paths::Paths,
    report,
};

/// Shows what nobody needs, asks, and removes it. What could not be removed is
/// told, and makes it a failure.
pub(super) async fn cleanup(
    args: &CleanupArgs,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let asks = !args.force && !args.dry_run;
    // Nothing is asked where nobody can answer, or does not see the question.
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::new(
            FailureKind::InvalidRequest,
            "`isol8 cleanup` asks before it removes anything, and nobody can answer here",
        )
        .cause("stdin and stderr are not both a terminal")
        .hint("`isol8 cleanup --force` does not ask; `--dry-run` shows what would go"));
    }
    let link = connect::dial_or_start(paths, console).await?;
    let mut client = AdminServiceClient::new(link.channel);
    if !args.force {
        let found = ask(&mut client, true, args.images).await?;
        let (stays, goes): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|item| !item.error.is_empty());
        if args.dry_run {
            return show(args.json, &goes, &stays);
        }
        if goes.is_empty() {
            return nothing(args.json, &stays);
        }
        for line in listed(&goes, &stays).lines() {
            console.say(line);
        }
        if !confirmed(goes.len(), console)? {
            console.say("nothing was removed");
            return Ok(Exit::Done);
        }
    }
    let done = ask(&mut client, false, args.images).await?;
    let (failed, removed): (Vec<_>, Vec<_>) =
        done.into_iter().partition(|item| !item.error.is_empty());
    for item in &failed {
        let message = format!("cannot remove {}", one(item));
        console.failure(&Failure::new(FailureKind::Internal, message).cause(&item.error));
    }
    let exit = match args.json {
        true => answer_json(&to_json("removed", &removed, "failed", &failed))?,
        false => answer(summary(&removed, &failed).as_bytes())?,
    };
    match failed.is_empty() {
        true => Ok(exit),
        false => Ok(Exit::Failed),
    }
}

async fn ask(
    client: &mut AdminServiceClient<Channel>,
    dry_run: bool,
    images: bool,
) -> Result<Vec<CleanupItem>, Failure> {
    let request = CleanupRequest { dry_run, images };
    let answer = client.cleanup(request).await;
    Ok(answer
        .map_err(|status| unwanted(&status))?
        .into_inner()
        .items)
}

fn confirmed(count: usize, console: &Console) -> Result<bool, Failure> {
    let things = match count {
        1 => "this thing".to_owned(),
        count => format!("these {count} things"),
    };
    console.prompt(&format!("Remove {things}? [y/N] "));
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| {
        Failure::new(FailureKind::Internal, "cannot read the answer").because(&error)
    })?;
    let answer = line.trim().to_lowercase();
    Ok(answer == "y" || answer == "yes")
}

fn show(json: bool, goes: &[CleanupItem], stays: &[CleanupItem]) -> Result<Exit, Failure> {
    match (json, goes.is_empty()) {
        (true, _) => answer_json(&to_json("wouldRemove", goes, "stays", stays)),
        (false, true) => nothing(false, stays),
        (false, false) => answer(format!("{}\n", listed(goes, stays)).as_bytes()),
    }
}

fn nothing(json: bool, stays: &[CleanupItem]) -> Result<Exit, Failure> {
    match json {
        true => answer_json(&to_json("removed", &[], "failed", &[])),
        false => answer(format!("{}nothing to remove\n", staying(stays)).as_bytes()),
    }
}

const KINDS: [CleanupKind; 6] = [
    CleanupKind::Session,
    CleanupKind::Kept,
    CleanupKind::Warm,
    CleanupKind::Left,
    CleanupKind::Image,
    CleanupKind::Unspecified,
];

/// What a kind is called: one of it, several.
const fn called(kind: CleanupKind) -> (&'static str, &'static str) {
    match kind {
        CleanupKind::Session => ("session", "sessions"),
        CleanupKind::Kept => ("kept sandbox", "kept sandboxes"),
        CleanupKind::Warm => ("warm sandbox", "warm sandboxes"),
        CleanupKind::Left => ("sandbox left over", "sandboxes left over"),
        CleanupKind::Image => ("image", "images"),
        // Of a newer daemon.
        CleanupKind::Unspecified => ("other thing", "other things"),
    }
}

fn counted(kind: CleanupKind, count: usize) -> String {
    let (one, several) = called(kind);
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {several}"),
    }
}

/// A line for each kind. Names and ids are there where somebody can know them.
fn listed(goes: &[CleanupItem], stays: &[CleanupItem]) -> String {
    let mut lines = Vec::new();
    for kind in KINDS {
        let items: Vec<&CleanupItem> = goes.iter().filter(|item| item.kind() == kind).collect();
        if items.is_empty() {
            continue;
        }
        let mut line = counted(kind, items.len());
        match kind {
            CleanupKind::Warm | CleanupKind::Left => {
                let on = |engine| items.iter().filter(|item| item.engine == engine).count();
                let mut engines: Vec<i32> = items.iter().map(|item| item.engine).collect();
                engines.sort_unstable();
                engines.dedup();
                let parts = engines.into_iter().map(|engine| {
                    let name = report::engine(engine.try_into().unwrap_or_default());
                    format!("{} {name}", on(engine))
                });
                let _room = write!(line, " ({})", parts.collect::<Vec<_>>().join(", "));
            }
            _ => {
                let names = items.iter().map(|item| name(item));
                let _room = write!(line, ": {}", names.collect::<Vec<_>>().join(", "));
            }
        }
        lines.push(line);
    }
    format!("{}{}", staying(stays), lines.join("\n"))
}

fn staying(stays: &[CleanupItem]) -> String {
    let line = |item: &CleanupItem| {
        let why = printable(&item.error);
        format!("{} stays: {why}\n", one(item))
    };
    stays.iter().map(line).collect()
}

/// What a person knows it by.
fn name(item: &CleanupItem) -> String {
    let engine = report::engine(item.engine());
    match item.kind() {
        CleanupKind::Session => format!("{} ({engine})", printable(&item.name)),
        CleanupKind::Image => printable(&item.id),
        _ => format!("{} ({engine})", printable(&item.id)),
    }
}

fn one(item: &CleanupItem) -> String {
    format!("{} {}", called(item.kind()).0, name(item))
}

/// Exact counts: what went, and what did not.
fn summary(removed: &[CleanupItem], failed: &[CleanupItem]) -> String {
    if removed.is_empty() && failed.is_empty() {
        return "nothing to remove\n".to_owned();
    }
    let mut parts = Vec::new();
    for kind in KINDS {
        let count = removed.iter().filter(|item| item.kind() == kind).count();
        if count > 0 {
            parts.push(counted(kind, count));
        }
    }
    let mut text = match parts.is_empty() {
        true => "removed nothing".to_owned(),
        false => format!("removed {}", parts.join(", ")),
    };
    if !failed.is_empty() {
        let _room = write!(text, "; {} failed", failed.len());
    }
    text + "\n"
}

fn to_json(first: &str, some: &[CleanupItem], second: &str, others: &[CleanupItem]) -> Value {
    let item = |item: &CleanupItem| {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let kind = match item.kind() {
            CleanupKind::Session => "session",
            CleanupKind::Kept => "kept",
            CleanupKind::Warm => "warm",
            CleanupKind::Left => "left",
            CleanupKind::Image => "image",
            CleanupKind::Unspecified => "unknown",
        };
        json!({
            "kind": kind,
            "engine": report::engine(item.engine()),
            "id": item.id,
            "name": text(&item.name),
            "error": text(&item.error),
        })
    };
    let list = |items: &[CleanupItem]| items.iter().map(item).collect::<Vec<_>>();
    json!({ first: list(some), second: list(others) })
}
