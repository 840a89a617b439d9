//! Debian's kernel, unpacked in cargo's folder and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flannel_tests::tools::find_program;

use crate::architecture::Architecture;
use crate::phase;
use crate::setup::apt::unpack::Unpacker;

/// A kernel and its modules.
pub(super) struct Kernel {
    /// The release as `uname -r` prints it.
    pub(super) release: String,
    /// The folder with `boot` and `lib/modules`.
    root: PathBuf,
}

impl Kernel {
    /// Returns the one that was unpacked in the folder, or unpacks the newest of the Debian release: 6.1 in bookworm,
    /// 6.12 in trixie.
    pub(super) fn get(architecture: &Architecture, unpacker: &Unpacker, folder: &Path) -> Result<Self> {
        let root = folder.join("kernel");
        if !root.exists() {
            // The smaller linux-image-cloud has no 9p, which mounts shared folders.
            let newest = format!("linux-image-{}", architecture.debian);
            phase::measured(&format!("download of Debian's kernel for {}", architecture.debian), || {
                unpacker.unpack(&[unpacker.dependency(&newest)?], &root)
            })?;
        }
        // The place of modules from trixie on.
        if root.join("usr/lib/modules").exists() {
            fs::rename(root.join("usr/lib"), root.join("lib")).context("cannot move the kernel's modules")?;
        }
        let release = only_name_in(&root.join("lib/modules"))?;
        let kernel = Self { release, root };
        if !kernel.modules().join(&kernel.release).join("modules.dep").exists() {
            phase::execute(tool("depmod")?.arg("--basedir").arg(&kernel.root).arg(&kernel.release))?;
        }
        Ok(kernel)
    }

    /// Returns the file that a machine boots.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Returns the folder that belongs at `/lib/modules`.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules")
    }

    /// Returns the files of a module and of those that it needs, in the order of loading. None if it is built in.
    pub(super) fn module_files(&self, module: &str) -> Result<Vec<PathBuf>> {
        let mut command = tool("modprobe")?;
        command.arg("--dirname").arg(&self.root).args(["--set-version", &self.release]);
        let output = command.args(["--show-depends", module]).output().context("cannot run modprobe")?;
        if !output.status.success() {
            bail!("Linux {} has no module {module}", self.release);
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
        Ok(files.map(|file| file.trim().into()).collect())
    }
}

fn tool(name: &str) -> Result<Command> {
    Ok(Command::new(find_program(name).with_context(|| format!("{name} is not installed"))?))
}

fn only_name_in(folder: &Path) -> Result<String> {
    let mut entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}
