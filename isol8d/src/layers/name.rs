//! What a layer is named by: everything that decides what is in it.

use isol8_core::{layer::LayerId, package::Package, sandbox::SandboxKey};
use sha2::{Digest as _, Sha256};

/// Changes when layers of before are of no use any more.
const FORMAT: u32 = 1;

/// A set of packages for one interpreter. It has one layer, or a next one when
/// that has expired while sandboxes still mount it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LayerName([u8; 32]);

impl LayerName {
    /// `identity` is the engine's, `recipe` the number of the installer's
    /// command line; `packages` are sorted.
    pub(crate) fn new(key: &SandboxKey, identity: &str, packages: &[Package], recipe: u32) -> Self {
        let mut digest = Sha256::new();
        // With its length before each part, two lists never look the same.
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(&FORMAT.to_le_bytes());
        part(&recipe.to_le_bytes());
        part(key.engine.name().as_bytes());
        part(key.runtime.name().as_bytes());
        part(identity.as_bytes());
        for package in packages {
            part(package.as_str().as_bytes());
        }
        Self(digest.finalize().into())
    }

    /// Its layer; `generation` is 0 for the first.
    pub(crate) fn id(&self, generation: u32) -> LayerId {
        if generation == 0 {
            return LayerId::new(&self.0);
        }
        let mut digest = Sha256::new();
        digest.update(self.0);
        digest.update(generation.to_le_bytes());
        LayerId::new(&digest.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use isol8_core::{config::Config, package::sorted, runtime::Runtime, sandbox::EngineKind};

    use super::*;

    fn packages(texts: &[&str]) -> Vec<Package> {
        let parsed = texts
            .iter()
            .map(|text| Package::parse(Runtime::Python, text));
        sorted(parsed.map(|package| package.expect("a good package")))
    }

    #[test]
    fn everything_that_decides_is_in_the_name() {
        let config = Config::default();
        let key = config.usual_key(EngineKind::Native, Runtime::Python);
        let name = |identity: &str, texts: &[&str], recipe| {
            LayerName::new(&key, identity, &packages(texts), recipe).id(0)
        };
        let usual = name("3.13", &["a", "b"], 1);
        assert_eq!(
            usual,
            name("3.13", &["b", "a", "a"], 1),
            "order and repeats"
        );
        for other in [
            name("3.14", &["a", "b"], 1),
            name("3.13", &["ab"], 1),
            name("3.13", &["a"], 1),
            name("3.13", &["a", "b"], 2),
        ] {
            assert_ne!(usual, other);
        }
        let other = config.usual_key(EngineKind::Docker, Runtime::Python);
        let docker = LayerName::new(&other, "3.13", &packages(&["a", "b"]), 1);
        assert_ne!(usual, docker.id(0));
        assert_ne!(docker.id(0), docker.id(1));
    }

    #[test]
    fn what_the_run_may_use_is_not() {
        let key = Config::default().usual_key(EngineKind::Native, Runtime::Python);
        let other = SandboxKey {
            writable: !key.writable,
            network: isol8_core::sandbox::Network::Host,
            ..key.clone()
        };
        let packages = packages(&["a"]);
        let name = |key| LayerName::new(key, "x", &packages, 1);
        assert_eq!(name(&key), name(&other));
    }
}
