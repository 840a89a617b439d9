//! Unpacks packages into a folder instead of installing them, which leaves the machine as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt_get, ask, update};
use crate::phase;

/// Returns the package that a metapackage depends on: a certain kernel for `linux-image-amd64`.
pub(crate) fn dependency(package: &str) -> Result<Vec<String>> {
    update()?;
    let depends = ask(Command::new("apt-cache").args(["depends", package]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(vec![name.with_context(|| format!("apt's sources have no package {package}"))?.to_owned()])
}

/// Returns those of the package and of what it needs that are not installed.
pub(crate) fn not_installed(package: &str) -> Result<Vec<String>> {
    update()?;
    let plan = ask(apt_get().args(["install", "--simulate", "--no-install-recommends", package]))?;
    let names: Vec<_> = plan.lines().filter_map(planned).collect();
    if names.is_empty() {
        bail!("apt's sources have no package {package}, or not all that it needs");
    }
    Ok(names)
}

/// Reads a line of a simulation: `Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])`.
fn planned(line: &str) -> Option<String> {
    line.strip_prefix("Inst ")?.split(' ').next().map(str::to_owned)
}

/// Downloads packages and unpacks them at `root`, all or none: a folder that exists is complete.
pub(crate) fn unpack(packages: &[String], root: &Path) -> Result<()> {
    let new = beside(root, "new")?;
    let archives = beside(root, "packages")?;
    let mut download = apt_get();
    // apt's own user cannot write to this folder.
    download.args(["-o", "APT::Sandbox::User=root", "download"]).args(packages).current_dir(&archives);
    phase::execute(&mut download)?;
    for archive in archives.read_dir()? {
        phase::execute(Command::new("dpkg-deb").arg("--extract").args([&archive?.path(), &new]))?;
    }
    fs::remove_dir_all(&archives).with_context(|| format!("cannot remove {}", archives.display()))?;
    fs::rename(&new, root).with_context(|| format!("cannot make {}", root.display()))
}

/// Creates an empty folder beside the one to be made.
fn beside(root: &Path, extension: &str) -> Result<PathBuf> {
    let folder = root.with_extension(extension);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_installed_is_planned() {
        let planned_of = |line| planned(line).unwrap_or_default();
        assert_eq!(planned_of("Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])"), "seabios");
        assert_eq!(planned_of("Inst libc6 [2.36-9] (2.36-10 Debian:12 [amd64])"), "libc6");
        for other in [
            "Remv qemu-utils [1:10.0.2]",
            "Conf seabios (1.16.2-1 Debian:12 [all])",
            "Reading package lists...",
        ] {
            assert_eq!(planned_of(other), "");
        }
    }
}
