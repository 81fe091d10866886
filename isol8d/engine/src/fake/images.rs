//! Names of images, and how they go. Every base image is there at first.

use isol8_core::{
    failure::{Failure, FailureKind},
    runtime::Runtime,
    sandbox::EngineKind,
};

use super::{FakeEngine, State};

impl State {
    fn names(&self) -> Vec<String> {
        let customs = self.customs.iter().map(|image| image.tag.clone());
        let derived = self.derived.iter().map(|name| name.as_str().to_owned());
        let bases = Runtime::ALL.into_iter();
        let bases = bases.filter(|runtime| !self.removed.contains(runtime));
        customs.chain(derived).chain(bases.map(base_name)).collect()
    }

    fn uses(&self, name: &str) -> bool {
        let mut specs = self.live.values().filter_map(|live| live.spec.as_ref());
        specs.any(|spec| match &spec.key.image {
            Some(image) => image.as_str() == name,
            None => base_name(spec.key.runtime) == name,
        })
    }
}

fn base_name(runtime: Runtime) -> String {
    format!("isol8:{runtime}")
}

impl FakeEngine {
    /// As the real engines: only one of them has images.
    pub(super) fn own_names(&self) -> Vec<String> {
        match self.kind {
            EngineKind::Docker => self.state().names(),
            EngineKind::Native => Vec::new(),
        }
    }

    pub(super) fn remove_own(&self, name: &str) -> Result<(), Failure> {
        let mut state = self.state();
        if state.uses(name) {
            let message = format!("`{name}` is in use");
            return Err(Failure::new(FailureKind::EngineRefused, message));
        }
        state.customs.retain(|image| image.tag != name);
        state.derived.retain(|image| image.as_str() != name);
        let mut bases = Runtime::ALL.into_iter();
        let base = bases.find(|runtime| base_name(*runtime) == name);
        state.removed.extend(base);
        Ok(())
    }
}
