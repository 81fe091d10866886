//! Makes one sandbox and brings its init to the point where a program can start.

use std::time::Duration;

use isol8_core::{
    env,
    failure::{Failure, FailureKind},
    outcome::Counters,
    park,
    sandbox::{SandboxKey, SandboxSpec},
};
use isol8_engine::{
    Engine, Interpreter, Sandbox,
    link::{Link, PROTOCOL},
};
use isol8_proto::init::{Command, EnvVar, FailureKind as InitFailure, Prepare, from_init, to_init};
use tokio::time::timeout;

/// From the first frame to `Ready`: an interpreter that takes longer to start
/// will not serve a run either.
const READY_DEADLINE: Duration = Duration::from_secs(15);

/// A reading of the counters that takes longer is done without.
const COUNTERS: Duration = Duration::from_secs(1);

/// A sandbox that is ready for its program.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) sandbox: Sandbox,
    pub(super) parked: bool,
    pub(super) baseline: Option<Counters>,
}

/// Makes it. The caller destroys `spec.id` whatever comes out.
pub(super) async fn make(engine: &dyn Engine, spec: &SandboxSpec) -> Result<Made, Failure> {
    let mut sandbox = engine.create(spec).await?;
    let parked = parked_command(&spec.key, &sandbox.interpreter);
    let ready = timeout(READY_DEADLINE, get_ready(&mut sandbox.link, parked));
    let parked = ready.await.unwrap_or_else(|_| {
        let message = "the init of a new sandbox did not get ready in time";
        Err(Failure::new(FailureKind::EngineTimeout, message))
    })?;
    // Nothing runs in it from here until its program does. Read later, it could
    // already hold what the program used.
    let reading = timeout(COUNTERS, engine.counters(&spec.id));
    let baseline = reading.await.ok().and_then(Result::ok);
    Ok(Made {
        sandbox,
        parked,
        baseline,
    })
}

async fn get_ready(link: &mut Link, parked: Option<Command>) -> Result<bool, Failure> {
    match receive(link).await? {
        from_init::Message::Hello(hello) if hello.protocol == PROTOCOL => {}
        from_init::Message::Hello(hello) => {
            let message = format!(
                "init speaks protocol {}, this daemon {PROTOCOL}",
                hello.protocol
            );
            return Err(Failure::new(FailureKind::Internal, message)
                .hint("install isol8d and isol8-init of the same version"));
        }
        other => return Err(unexpected(&other)),
    }
    let prepare = to_init::Message::Prepare(Prepare {
        parked,
        ..Prepare::default()
    });
    link.writer
        .send(prepare)
        .await
        .map_err(|error| lost(&error))?;
    match receive(link).await? {
        from_init::Message::Ready(ready) => Ok(ready.parked),
        other => Err(unexpected(&other)),
    }
}

async fn receive(link: &mut Link) -> Result<from_init::Message, Failure> {
    link.reader.recv().await.map_err(|error| lost(&error))
}

fn lost(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(
        FailureKind::Internal,
        "a new sandbox was lost before it was ready",
    )
    .because(error)
}

fn unexpected(message: &from_init::Message) -> Failure {
    let said = match message {
        from_init::Message::Failed(failed) => {
            let kind = match failed.kind() {
                InitFailure::NoSpace => FailureKind::NoSpace,
                InitFailure::NotFound | InitFailure::NotExecutable => {
                    FailureKind::InterpreterMissing
                }
                _ => FailureKind::Internal,
            };
            return Failure::new(kind, "init could not get a new sandbox ready")
                .cause(failed.message.clone());
        }
        from_init::Message::Hello(_) => "Hello",
        from_init::Message::Ready(_) => "Ready",
        _ => "a message of a run",
    };
    let message = format!("init said {said} out of turn");
    Failure::new(FailureKind::Internal, message)
}

/// The command line and environment of the parked interpreter; `None` where
/// nothing can be parked.
fn parked_command(key: &SandboxKey, interpreter: &Interpreter) -> Option<Command> {
    if !interpreter.parkable {
        return None;
    }
    let plan = park::plan(key.runtime, &interpreter.program)?;
    let mut variables = interpreter.environment(key.network);
    variables.extend(plan.extra_env);
    let variable = |(name, value): (String, String)| EnvVar {
        name: name.into_bytes().into(),
        value: value.into_bytes().into(),
    };
    Some(Command {
        argv: plan
            .argv
            .into_iter()
            .map(|part| part.into_bytes().into())
            .collect(),
        env: variables.into_iter().map(variable).collect(),
        cwd: env::HOME.as_bytes().to_vec().into(),
    })
}
