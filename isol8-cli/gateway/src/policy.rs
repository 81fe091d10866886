//! What the gateway lets nobody ask for, whatever the daemon allows its own user.

/// Narrow unless it is opened.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `network: "host"` may be asked for.
    pub allow_host_network: bool,
    /// Images that `image` may name, word for word.
    pub images: Vec<String>,
}
