//! Unpacks packages into a folder instead of installing them, which leaves the machine as it is.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt_get, ask, update};
use crate::phase;

/// Gets packages for this machine or for another architecture.
pub(crate) struct Unpacker {
    /// The configuration of an apt that differs from the machine's.
    config: Option<PathBuf>,
    updated: Cell<bool>,
}

impl Unpacker {
    /// Uses this machine's apt.
    pub(crate) fn native() -> Self {
        Self { config: None, updated: Cell::new(false) }
    }

    /// Uses this machine's apt as if no package were installed. `folder` gets its configuration.
    pub(crate) fn clean(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let (status, config) = (folder.join("status"), folder.join("apt.conf"));
        let setting = format!("Dir::State::status \"{}\";\n", status.display());
        fs::write(&status, "")
            .and_then(|()| fs::write(&config, setting))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        update()?;
        Ok(Self { config: Some(config), updated: Cell::new(true) })
    }

    /// Uses an apt for an architecture (`arm64`) that has the machine's sources, and lists of its own in the folder.
    /// The machine's own apt does not get to know that architecture. To this one, no package is installed.
    pub(crate) fn foreign(architecture: &str, folder: &Path) -> Result<Self> {
        for name in ["state/lists/partial", "cache/archives/partial"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let config = folder.join("apt.conf");
        fs::write(folder.join("state/status"), "")
            .and_then(|()| fs::write(&config, configuration(architecture, folder)))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        Ok(Self { config: Some(config), updated: Cell::new(false) })
    }

    /// Returns the package that a metapackage depends on: a certain kernel for `linux-image-amd64`.
    pub(crate) fn dependency(&self, package: &str) -> Result<String> {
        self.update()?;
        let depends = ask(self.configure(&mut Command::new("apt-cache")).args(["depends", package]))?;
        let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(name.with_context(|| format!("apt's sources have no package {package}"))?.to_owned())
    }

    /// Returns those of the packages and of what they need that are not installed.
    pub(crate) fn with_dependencies(&self, packages: &[&str]) -> Result<Vec<String>> {
        self.update()?;
        let mut command = apt_get();
        self.configure(&mut command).args(["install", "--simulate", "--no-install-recommends"]);
        let plan = ask(command.args(packages))?;
        let names: Vec<_> = plan.lines().filter_map(planned).collect();
        if names.is_empty() {
            bail!("apt's sources lack one of {}, or what it needs", packages.join(", "));
        }
        Ok(names)
    }

    /// Downloads packages and unpacks them at `root`, all or none: a folder that exists is complete.
    pub(crate) fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let new = beside(root, "new")?;
        let archives = beside(root, "packages")?;
        let mut download = apt_get();
        self.configure(&mut download).args(["-o", SANDBOX, "download"]).args(packages);
        phase::execute(download.current_dir(&archives))?;
        for archive in archives.read_dir()? {
            phase::execute(Command::new("dpkg-deb").arg("--extract").args([&archive?.path(), &new]))?;
        }
        fs::remove_dir_all(&archives).with_context(|| format!("cannot remove {}", archives.display()))?;
        fs::rename(&new, root).with_context(|| format!("cannot make {}", root.display()))
    }

    fn update(&self) -> Result<()> {
        if self.config.is_none() {
            return update();
        }
        if self.updated.replace(true) {
            return Ok(());
        }
        let mut command = apt_get();
        phase::run(
            "apt-get update for another architecture",
            self.configure(&mut command).args(["-o", SANDBOX, "update"]),
        )
    }

    fn configure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match &self.config {
            Some(config) => command.env("APT_CONFIG", config),
            None => command,
        }
    }
}

/// apt's own user cannot write to this project's folders.
const SANDBOX: &str = "APT::Sandbox::User=root";

fn configuration(architecture: &str, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n\
         Dir::State \"{folder}/state\";\nDir::State::status \"{folder}/state/status\";\nDir::Cache \"{folder}/cache\";\n"
    )
}

/// Reads a line of a simulation: `Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])`.
fn planned(line: &str) -> Option<String> {
    line.strip_prefix("Inst ")?.split(' ').next().map(str::to_owned)
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
