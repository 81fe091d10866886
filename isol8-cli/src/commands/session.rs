//! `isol8 session`: one file per command, [`place`] for what they are about.

mod cp;
mod ls;
mod place;
mod rm;

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{AdoptRequest, SessionInfo, session_service_client::SessionServiceClient};
use tonic::transport::Channel;

use super::{answer, answer_json, table};
use crate::{
    args::SessionCommand,
    connect::{self, Link, unwanted},
    console::Console,
    exit::Exit,
    paths::Paths,
    plan::session_name,
};

pub(super) use ls::{of, to_json};

type Client = SessionServiceClient<Channel>;

/// Lists, removes, adopts or copies. What is typed wrong is told before a daemon
/// is asked; sessions outlive daemons, so one is started where none answers.
pub(super) async fn session(
    command: SessionCommand,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    match command {
        SessionCommand::Ls { place: None, json } => ls::sessions(json, paths, console).await,
        SessionCommand::Ls {
            place: Some(place),
            json,
        } => ls::files(&place, json, paths, console).await,
        SessionCommand::Rm {
            places,
            force,
            recursive,
        } => rm::rm(&places, rm::How { force, recursive }, paths, console).await,
        SessionCommand::Adopt { id, name } => adopt(id, &name, paths, console).await,
        SessionCommand::Cp {
            recursive,
            sources,
            destination,
        } => {
            let order = cp::Order::parse(&sources, &destination, recursive)?;
            cp::cp(order, paths, console).await
        }
    }
}

async fn client(paths: &Paths, console: &Console) -> Result<(Link, Client), Failure> {
    let link = connect::dial_or_start(paths, console).await?;
    let client = SessionServiceClient::new(link.channel.clone());
    Ok((link, client))
}

/// A usage error.
fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::InvalidRequest, message)
}

async fn adopt(
    sandbox_id: String,
    name: &str,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let name = session_name(name, "isol8 session adopt ID work")?;
    let (_, mut client) = client(paths, console).await?;
    let request = AdoptRequest {
        sandbox_id,
        name: name.as_str().to_owned(),
    };
    let adopted = client.adopt(request).await;
    let adopted = adopted.map_err(|status| unwanted(&status))?.into_inner();
    let SessionInfo {
        runtime, engine, ..
    } = adopted.session.unwrap_or_default();
    let runtime = crate::console::printable(&runtime);
    let engine = crate::console::printable(&engine);
    answer(format!("session {name} ({runtime}, {engine})\n").as_bytes())
}
