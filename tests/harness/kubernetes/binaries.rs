//! Kubernetes' programs, as `cargo xtask kube` builds them.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The variable that names their folder.
pub const VARIABLE: &str = "FLANNEL_KUBERNETES";

/// A folder with Kubernetes' programs.
#[derive(Debug, Clone)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// The programs in such a folder.
    pub const NAMES: [&str; 7] = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubectl",
        "pause",
    ];

    /// Returns the folder, which must have all programs.
    pub fn at(folder: PathBuf) -> Result<Self> {
        for name in Self::NAMES {
            ensure!(
                folder.join(name).is_file(),
                "{} has no {name}: remove the folder, then `cargo xtask kube --build-only` builds it anew",
                folder.display()
            );
        }
        Ok(Self(folder))
    }

    /// Returns the folder that `FLANNEL_KUBERNETES` names, if it is set.
    pub fn named() -> Result<Option<Self>> {
        let folder = env::var_os(VARIABLE).map(PathBuf::from);
        folder.map(Self::at).transpose().with_context(|| format!("use the folder that {VARIABLE} names"))
    }

    /// Returns the folder that `FLANNEL_KUBERNETES` names. Fails if it is not set.
    pub fn find() -> Result<Self> {
        Self::named()?.with_context(|| {
            format!(
                "{VARIABLE} is not set: `cargo xtask test` builds Kubernetes and sets it, `cargo xtask test --no-kube` leaves \
                 these tests out"
            )
        })
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Returns the path of a program: `kube-apiserver`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
