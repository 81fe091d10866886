//! Images with packages of their own system, made from other images.

use isol8_core::{
    failure::{Failure, FailureKind},
    package::Package,
    sandbox::{ImageName, Limits, SandboxKey},
};

use super::Inner;
use crate::Progress;

impl Inner {
    pub(super) async fn derive(
        &self,
        key: &SandboxKey,
        packages: &[Package],
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Result<ImageName, Failure> {
        let _ = (key, packages, limits, progress);
        Err(Failure::new(FailureKind::NotYet, "not there yet"))
    }
}
