//! The files that the virtual machine sees: this machine's own, or Debian's for another architecture.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flannel_tests::tools::{Part, Source, TOOLS, find_program};

use crate::architecture::Architecture;
use crate::phase;
use crate::setup::apt::unpack::Unpacker;
use crate::workspace::{root, target};

/// The tools that tests need on another architecture.
const PARTS: [Part; 2] = [Part::Cluster, Part::Etcd];
/// What those tools, the scripts of the virtual machine, and its kernel take for granted.
const BASE: [&str; 8] =
    ["base-files", "busybox-static", "coreutils", "dash", "grep", "kmod", "mount", "util-linux"];
/// The `PATH` of a new system.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A folder of files that becomes the root of the virtual machine.
pub(super) struct Root {
    folder: PathBuf,
    /// Cargo's output, which has to be shared besides. None where the root has it.
    target: Option<PathBuf>,
}

impl Root {
    /// Returns this machine's files, or unpacks Debian's.
    pub(super) fn get(architecture: &Architecture, unpacker: &Unpacker, folder: &Path) -> Result<Self> {
        if architecture.is_native() {
            return Ok(Self { folder: "/".into(), target: None });
        }
        let root = folder.join("root");
        if !root.exists() {
            phase::measured(&format!("download of Debian's tools for {}", architecture.debian), || {
                unpacker.unpack(&unpacker.with_dependencies(&packages())?, &root)
            })?;
        }
        Ok(Self { folder: root, target: Some(target()?) })
    }

    /// Returns the folders to share, with the tags by which the virtual machine mounts them.
    pub(super) fn shares(&self) -> Vec<(&'static str, &Path)> {
        let root = ("files", self.folder.as_path());
        [root].into_iter().chain(self.target.as_deref().map(|target| ("target", target))).collect()
    }

    /// Returns the folder that the virtual machine has to mount besides its root, at the path that it has here.
    pub(super) fn target(&self) -> Option<&Path> {
        self.target.as_deref()
    }

    /// Returns the folder in which the tests run.
    pub(super) fn tests(&self) -> PathBuf {
        self.target.clone().unwrap_or_else(|| root().join("tests"))
    }

    /// Returns the `PATH` with which the tests run.
    pub(super) fn path(&self) -> Result<String> {
        if self.target.is_some() { Ok(PATH.to_owned()) } else { env::var("PATH").context("PATH is not set") }
    }

    /// Returns the file of a static busybox.
    pub(super) fn busybox(&self) -> Result<PathBuf> {
        let unpacked = ["bin", "usr/bin"].map(|bin| self.folder.join(bin).join("busybox"));
        let found = if self.target.is_some() {
            unpacked.into_iter().find(|file| file.is_file())
        } else {
            find_program("busybox")
        };
        found.context("busybox is not installed")
    }
}

fn packages() -> Vec<&'static str> {
    let tools = TOOLS.iter().filter(|tool| tool.parts.iter().any(|part| PARTS.contains(part)));
    let packages = tools.filter_map(|tool| match tool.source {
        Source::Package(name) => Some(name),
        Source::Component(_) | Source::Crate { .. } | Source::Python { .. } => None,
    });
    BASE.into_iter().chain(packages).collect()
}
