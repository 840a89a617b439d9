//! The first root of the virtual machine: busybox, two scripts, and the modules by which shared files are mounted.

mod cpio;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use cpio::Archive;

/// Modules that `init.sh` and the tests need before the root is mounted.
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_net"];
const INIT: &str = include_str!("init.sh");

/// Writes it and returns its file. `guest` is the script for the root that follows.
pub(super) fn write(folder: &Path, kernel: &Kernel, busybox: &Path, guest: &str) -> Result<PathBuf> {
    let mut archive = Archive::default();
    ["bin", "modules"].into_iter().for_each(|name| archive.folder(name));
    archive.program("bin/busybox", &read(busybox)?);
    archive.program("init", INIT.as_bytes());
    archive.program("guest", guest.as_bytes());
    let modules = modules(kernel)?;
    for (number, file) in modules.iter().enumerate() {
        // Sorted by name, numbers give the order of loading.
        archive.program(&format!("modules/{number:02}"), &module(file)?);
    }
    let path = folder.join("initramfs");
    fs::write(&path, archive.end()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for module in MODULES {
        files.extend(
            kernel.module_files(module)?.into_iter().filter(|file| !files.contains(file)).collect::<Vec<_>>(),
        );
    }
    Ok(files)
}

/// Returns a module as busybox loads it. Debian compresses them from trixie on.
fn module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return read(file);
    }
    let output =
        Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output().context("cannot run xz")?;
    ensure!(output.status.success(), "cannot decompress {}", file.display());
    Ok(output.stdout)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
