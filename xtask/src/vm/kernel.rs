//! Debian's kernel: unpacked in cargo's folder, installed nowhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flannel_tests::tools::find_program;

use crate::phase;
use crate::setup::apt;

/// Stands for the release's newest kernel: 6.1 in bookworm, 6.12 in trixie. (The smaller linux-image-cloud-amd64 has no
/// 9p, by which the machine's files are reached.)
const NEWEST: &str = "linux-image-amd64";

/// A kernel and its modules.
pub(super) struct Kernel {
    /// As `uname -r` gives it.
    pub(super) release: String,
    /// The folder with `boot` and `lib/modules`.
    root: PathBuf,
}

impl Kernel {
    /// The one that was unpacked in the folder; if there is none, Debian's newest.
    pub(super) fn get(folder: &Path) -> Result<Self> {
        let root = folder.join("kernel");
        if !root.exists() {
            phase::measured("download of Debian's kernel", || apt::unpack(&apt::dependency(NEWEST)?, &root))?;
        }
        // From trixie on modules are there.
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

    /// What a machine boots.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// What belongs at `/lib/modules`.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules")
    }

    /// The files of a module and of those that it needs, in the order of loading. None if it is built in.
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
