//! Docker's seccomp format, as much of it as our profile uses. What is not
//! known here is refused: a rule that is passed over would be a hole.

use serde::Deserialize;
use thiserror::Error;

/// Why a profile does not become a program.
#[derive(Debug, Error)]
pub(super) enum ProfileError {
    #[error("it is not a seccomp profile")]
    Malformed(#[source] serde_json::Error),
    #[error("its default is to allow")]
    OpenByDefault,
    #[error("it does not name the architecture `{0}`")]
    NotForThisMachine(&'static str),
    #[error("it names the system call `{0}`, whose number is not known here")]
    UnknownCall(String),
    #[error("its rules for `{0}` contradict each other")]
    Contradiction(String),
    #[error("a rule for `{0}` compares bits that its mask removes, or an argument that is none")]
    Impossible(String),
    #[error("it makes a program of {0} steps, more than the kernel takes")]
    TooLong(usize),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) default_action: Action,
    pub(super) arch_map: Vec<ArchEntry>,
    pub(super) syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ArchEntry {
    pub(super) architecture: String,
    /// Other tables that the same kernel serves, such as 32-bit ones. Always
    /// empty: a program here has one table of system calls.
    #[serde(rename = "subArchitectures")]
    _sub_architectures: [String; 0],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(default, rename = "comment")]
    _comment: String,
    pub(super) names: Vec<String>,
    pub(super) action: Action,
    /// EPERM where it is not said.
    pub(super) errno_ret: Option<u16>,
    /// All of them must hold. Empty: always.
    #[serde(default)]
    pub(super) args: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Condition {
    /// Which of the six arguments.
    pub(super) index: u32,
    /// The datum, or the mask of [`Operator::MaskedEqual`].
    pub(super) value: u64,
    /// The datum of [`Operator::MaskedEqual`].
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: Operator,
}

/// Two are enough. The others of the format compare all 64 bits of an argument
/// of which the kernel may look at 32: `not equal` is then no protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

impl Condition {
    /// The bits that count, and what they must be.
    pub(super) fn mask_and_datum(&self) -> (u64, u64) {
        match self.op {
            Operator::Equal => (u64::MAX, self.value),
            Operator::MaskedEqual => (self.value, self.value_two),
        }
    }
}

impl Profile {
    pub(super) fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = serde_json::from_str(text).map_err(ProfileError::Malformed)?;
        if profile.default_action == Action::Allow {
            return Err(ProfileError::OpenByDefault);
        }
        Ok(profile)
    }
}
