//! Which session a run wants, and what it says of it.

use isol8_core::{
    failure::Failure,
    quantity::{ByteSize, CpuMillis, Pids},
    sandbox::{EngineKind, ImageName, Network},
    session::{Given, SessionAsk, SessionName},
};
use isol8_proto::v1;

use super::invalid;

/// The name of a session.
///
/// # Errors
/// `InvalidRequest` for what is none.
pub(crate) fn name(text: &str) -> Result<SessionName, Failure> {
    SessionName::parse(text).map_err(|error| {
        invalid(error.to_string())
            .cause("a name has 1 to 64 letters, digits and `._-`, a letter or digit first")
            .hint("write it like `--session work`")
    })
}

/// What is out of range is refused where the limits of the run are checked.
pub(super) fn ask(
    start: &v1::Start,
    engine: Option<EngineKind>,
    image: Option<&ImageName>,
) -> Result<Option<SessionAsk>, Failure> {
    let Some(text) = &start.session else {
        return Ok(None);
    };
    let limits = start.limits.unwrap_or_default();
    let size = |bytes: u64| (bytes > 0).then(|| ByteSize::bytes(bytes));
    let given = Given {
        engine,
        network: match start.network() {
            v1::NetworkMode::Unspecified => None,
            v1::NetworkMode::None => Some(Network::None),
            v1::NetworkMode::Host => Some(Network::Host),
            v1::NetworkMode::Filtered => Some(Network::Filtered),
        },
        installs: !start.install.is_empty(),
        filters: start.filter.is_some() || start.log_network,
        image: image.cloned(),
        writable: start.writable,
        memory: size(limits.memory_bytes),
        cpu: CpuMillis::new(limits.cpu_millis),
        pids: Pids::new(limits.pids),
        sandbox_size: size(limits.sandbox_bytes),
        tmp_size: size(limits.tmp_bytes),
    };
    Ok(Some(SessionAsk {
        name: name(text)?,
        given,
    }))
}
