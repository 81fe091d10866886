//! From what was asked for to what the daemon is told: the one place where the
//! fields of a request are checked, and the gateway's policy is applied.

mod limits;
mod session;

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use isol8_proto::v1::{NetworkFilter, NetworkMode, PatternList, Start};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{ExecuteBody, FileContent, NetworkName, Options},
    files::{MAX_BYTES, check_path},
    keys::Caller,
    policy::Policy,
    refusal::Refusal,
};

pub(crate) use session::{SessionId, is_of, prefix};

/// What a request may bring or take in files.
const MOST_FILES: usize = 1000;

/// What a stream of output is taken to have where nobody asked for more.
const USUAL_OUTPUT_BYTES: u64 = 1 << 20;

const MAX_EXTENSION_CHARS: usize = 8;

/// A run, checked.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) start: Start,
    pub(crate) stdin: Bytes,
    /// Written before the program starts.
    pub(crate) files: BTreeMap<String, Bytes>,
    /// Sent back when it has ended.
    pub(crate) outputs: Vec<String>,
    /// The session is made for this run, and removed after it.
    pub(crate) temporary: bool,
    /// What the names of the caller's sessions begin with.
    pub(crate) prefix: String,
    /// Fires when the caller's key is no more.
    pub(crate) revoked: CancellationToken,
}

impl Job {
    /// # Errors
    /// 400 names the field, 403 the rule.
    pub(crate) fn new(
        body: ExecuteBody,
        caller: &Caller,
        policy: &Policy,
    ) -> Result<Self, Refusal> {
        let ExecuteBody {
            request,
            options,
            session_id,
        } = body;
        let limits = limits::limits(&options, request.timeout_ms)?;
        let files = files(request.files)?;
        if request.output_paths.len() > MOST_FILES {
            let message = format!("`request.outputPaths`: at most {MOST_FILES}");
            return Err(Refusal::invalid(message));
        }
        for path in &request.output_paths {
            check_path("request.outputPaths", path)?;
        }
        let session = session_id
            .as_deref()
            .map(|id| SessionId::parse("sessionId", id));
        let session = session.transpose()?;
        let temporary = session.is_none() && !(files.is_empty() && request.output_paths.is_empty());
        let session = match session {
            Some(id) => Some(id.name(caller)),
            None => temporary.then(|| session::temporary(caller)),
        };
        let extension = extension(request.file_extension)?;
        let filtered = !request.install_packages.is_empty() || session_id.is_some();
        check_filter(&options, filtered)?;
        let mut start = Start {
            runtime: request.runtime.wire().into(),
            code: request.code.into_bytes().into(),
            extension,
            network: network(&options).into(),
            limits: Some(limits),
            writable: options.readonly_root_fs == Some(false),
            image: options.image.unwrap_or_default(),
            env: request.env.into_iter().collect(),
            secrets: options.secrets.into_iter().collect(),
            stdin: request
                .stdin
                .as_ref()
                .is_some_and(|stdin| !stdin.is_empty()),
            install: request.install_packages,
            filter: options.network_filter.map(|filter| NetworkFilter {
                allow: filter.whitelist.map(|patterns| PatternList { patterns }),
                deny: filter.blacklist.map(|patterns| PatternList { patterns }),
            }),
            log_network: options.log_network,
            session,
            persist: options.persist,
            lane: caller.owner().to_owned(),
            ..Start::default()
        };
        policy.apply(&mut start)?;
        Ok(Self {
            start,
            stdin: request.stdin.unwrap_or_default().into(),
            files,
            outputs: request.output_paths,
            temporary,
            prefix: prefix(caller),
            revoked: caller.revoked().clone(),
        })
    }

    /// What the answer may take in memory, besides what comes as a stream.
    pub(crate) fn file_bytes(&self) -> u64 {
        match self.outputs.is_empty() {
            true => 0,
            false => MAX_BYTES,
        }
    }

    /// What the answer may take as a whole.
    pub(crate) fn answer_bytes(&self) -> u64 {
        output_bytes(&self.start).saturating_add(self.file_bytes())
    }

    /// A run of nothing, which makes the session that this run's files are written
    /// to: the same sandbox, and none of what is only the program's.
    pub(crate) fn opening(&self) -> Start {
        let unsaid = self.start.network() == NetworkMode::Unspecified;
        let network = match unsaid && !self.start.install.is_empty() {
            true => NetworkMode::Filtered,
            false => self.start.network(),
        };
        Start {
            code: Bytes::new(),
            network: network.into(),
            env: Default::default(),
            secrets: Default::default(),
            stdin: false,
            install: Vec::new(),
            filter: None,
            log_network: false,
            ..self.start.clone()
        }
    }
}

/// What both streams of a run may have.
pub(crate) fn output_bytes(start: &Start) -> u64 {
    let asked = start.limits.unwrap_or_default().max_output_bytes;
    let defaults = start.defaults.unwrap_or_default().max_output_bytes;
    let per_stream = [asked, defaults, USUAL_OUTPUT_BYTES];
    let per_stream = per_stream.into_iter().find(|bytes| *bytes > 0);
    per_stream.unwrap_or_default().saturating_mul(2)
}

/// The extension without its dot.
fn extension(asked: Option<String>) -> Result<String, Refusal> {
    let asked = asked.unwrap_or_default();
    let bare = asked.strip_prefix('.').unwrap_or(&asked);
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if bare.len() <= MAX_EXTENSION_CHARS && bare.bytes().all(allowed) {
        return Ok(bare.to_owned());
    }
    Err(Refusal::invalid(format!(
        "`request.fileExtension`: use up to {MAX_EXTENSION_CHARS} lower-case letters and digits"
    )))
}

fn network(options: &Options) -> NetworkMode {
    match options.network {
        Some(NetworkName::None) => NetworkMode::None,
        Some(NetworkName::Host) => NetworkMode::Host,
        Some(NetworkName::Filtered) => NetworkMode::Filtered,
        None => NetworkMode::Unspecified,
    }
}

/// What means something in a filtered network alone is not for another one.
/// Without a network in the request it `may_be` filtered: packages make it so,
/// and a session has one already.
fn check_filter(options: &Options, may_be: bool) -> Result<(), Refusal> {
    let fields = [
        ("options.networkFilter", options.network_filter.is_some()),
        ("options.logNetwork", options.log_network),
    ];
    let given = fields.into_iter().find(|(_, given)| *given);
    match (given, options.network) {
        (None, _) | (_, Some(NetworkName::Filtered)) => Ok(()),
        (_, None) if may_be => Ok(()),
        (Some((field, _)), _) => Err(Refusal::invalid(format!(
            "`{field}`: does nothing unless `options.network` is `filtered`"
        ))),
    }
}

fn files(asked: BTreeMap<String, FileContent>) -> Result<BTreeMap<String, Bytes>, Refusal> {
    if asked.len() > MOST_FILES {
        return Err(Refusal::invalid(format!(
            "`request.files`: at most {MOST_FILES}"
        )));
    }
    let mut files = BTreeMap::new();
    for (path, content) in asked {
        check_path("request.files", &path)?;
        let bytes = match content {
            FileContent::Text(text) => text.into_bytes(),
            FileContent::Bytes(content) => decode(
                &format!("request.files.{}", path.escape_debug()),
                &content.base64,
            )?,
        };
        files.insert(path, bytes.into());
    }
    Ok(files)
}

/// The bytes of a field in base64.
///
/// # Errors
/// 400.
pub(crate) fn decode(field: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    let decoded = BASE64.decode(text.as_bytes());
    decoded.map_err(|error| Refusal::invalid(format!("`{field}`: not base64: {error}")))
}

#[cfg(test)]
mod tests;
