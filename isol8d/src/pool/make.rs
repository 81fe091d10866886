//! Makes one sandbox and brings its init to the point where a program can start.

use std::time::Duration;

use isol8_core::{
    env,
    failure::{Failure, FailureKind},
    outcome::Counters,
    park,
    sandbox::{SandboxKey, SandboxSpec},
};
use isol8_engine::{Engine, Interpreter, Sandbox};
use isol8_proto::init::{Command, EnvVar, Prepare};
use tokio::time::timeout;

use crate::greeting;

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
    let order = Prepare {
        parked,
        ..Prepare::default()
    };
    let ready = timeout(READY_DEADLINE, greeting::prepare(&mut sandbox.link, order));
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
