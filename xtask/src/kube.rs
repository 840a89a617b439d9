//! `cargo xtask kube`: a real Kubernetes, built once from Debian's source package, and clusters of it.

mod build;
mod go;
mod openapi;
mod show;
mod source;
pub(crate) mod up;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flannel_tests::kubernetes::Binaries;
use flannel_tests::tools::Part;

use crate::workspace::cache;
use crate::{phase, setup};
use build::Build;

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 4] = [Part::Build, Part::Cluster, Part::Etcd, Part::Kubernetes];
/// The suite's tests that need Kubernetes, as the beginnings of their names.
pub(crate) const TESTS: [&str; 3] = ["kube_api::", ON_CLUSTER, "manifests::"];
/// Those of them that need a running cluster.
pub(crate) const ON_CLUSTER: &str = "kubernetes::";

/// What to do with Kubernetes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only build Kubernetes, and say where its programs are
    #[arg(long)]
    build_only: bool,
    /// Number of nodes, besides the machine of the control plane
    #[arg(long, default_value_t = up::NODES, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,
    /// End after the proof, with status 0 or 1
    #[arg(long)]
    once: bool,
}

/// Builds Kubernetes unless that was done before, and starts a cluster.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&NEEDS)?;
    let binaries = Kubernetes::get()?.build()?;
    if args.build_only {
        phase::note(&format!("Kubernetes {} is in {}", source::VERSION, binaries.folder().display()));
        return Ok(());
    }
    up::run(&binaries, args.nodes, args.once)
}

/// Kubernetes, as built before or as source.
pub(crate) enum Kubernetes {
    /// The programs of an earlier build, or of the folder that the user names.
    Built(Binaries),
    /// Everything that a build needs.
    Source(Build),
}

impl Kubernetes {
    /// Finds the programs, or downloads the source. Fails where the source cannot be had, before anything that takes long.
    pub(crate) fn get() -> Result<Self> {
        if let Some(binaries) = Binaries::named()? {
            return Ok(Self::Built(binaries));
        }
        let parent = cache()?.join("kubernetes");
        let folder = parent.join(build::name()?);
        if folder.exists() {
            return Ok(Self::Built(Binaries::at(folder)?));
        }
        let lock = lock(&parent)?;
        // Another process may have finished a build while this one waited.
        if folder.exists() {
            return Ok(Self::Built(Binaries::at(folder)?));
        }
        let work = clean(&parent)?;
        source::fetch(&work)?;
        Ok(Self::Source(Build { work, folder, _lock: lock }))
    }

    /// Builds what is not built yet.
    pub(crate) fn build(self) -> Result<Binaries> {
        match self {
            Self::Built(binaries) => Ok(binaries),
            Self::Source(build) => build.run(),
        }
    }
}

/// Waits for a build by another process in the same folder.
fn lock(parent: &Path) -> Result<File> {
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let path = parent.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        phase::note("waiting for another process that builds Kubernetes");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Returns an empty folder for a build. Whatever an interrupted one left is removed.
fn clean(parent: &Path) -> Result<PathBuf> {
    let work = parent.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir(&work).with_context(|| format!("cannot create {}", work.display()))?;
    Ok(work)
}
