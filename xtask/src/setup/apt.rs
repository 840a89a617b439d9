//! Debian's and Ubuntu's packages.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use super::lock;
use super::services::Quiet;
use crate::phase;
use crate::toolchain::program;
pub(crate) use unpack::{dependency, not_installed, unpack};

mod unpack;

/// Held while the lists of packages are renewed; apt waits for its other locks by itself.
const LISTS_LOCK: &str = "/var/lib/apt/lists/lock";
/// `--no-remove`: nothing that the user has may go for a package of ours.
const INSTALL: [&str; 4] = ["install", "--yes", "--no-install-recommends", "--no-remove"];

/// Whether this system has apt.
pub(crate) fn exists() -> bool {
    program("apt-get").is_some()
}

/// Installs the packages, all or none.
pub(crate) fn install(packages: &BTreeSet<&'static str>) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    update()?;
    let unknown = unavailable(packages)?;
    if !unknown.is_empty() {
        bail!(
            "apt's sources have no package {}: add a source that has, see its release's backports",
            unknown.join(", ")
        );
    }
    let _quiet = Quiet::start(packages)?;
    let mut command = apt_get();
    command.args(INSTALL).args(packages);
    phase::run(&format!("apt-get install of {} packages", packages.len()), &mut command)
}

/// The same for a shell.
pub(crate) fn shell(packages: &BTreeSet<&'static str>) -> String {
    let packages: Vec<_> = packages.iter().copied().collect();
    format!("apt-get update && apt-get {} {}", INSTALL.join(" "), packages.join(" "))
}

/// A source that does not answer is no reason to stop: the lists at hand may have the packages.
fn update() -> Result<()> {
    static UPDATED: AtomicBool = AtomicBool::new(false);
    if UPDATED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    lock::wait(LISTS_LOCK)?;
    if let Err(error) = phase::run("apt-get update", apt_get().arg("update")) {
        phase::note(&format!("{error:#}: going on with the lists that are here"));
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn unavailable(packages: &BTreeSet<&'static str>) -> Result<Vec<&'static str>> {
    let policy = ask(Command::new("apt-cache").arg("policy").args(packages))?;
    Ok(packages.iter().copied().filter(|package| !has_candidate(&policy, package)).collect())
}

/// What apt says, in English.
fn ask(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().with_context(|| format!("cannot run {name}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads `apt-cache policy`, which leaves out names it has never heard of.
fn has_candidate(policy: &str, package: &str) -> bool {
    let mut lines = policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package));
    let candidate = lines.find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.is_some_and(|version| version != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "etcd-server:\n  Installed: (none)\n  Candidate: 3.4.23-4+b4\n  Version table:\n     \
        3.4.23-4+b4 500\nghost:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";

    #[test]
    fn package_is_available_if_it_has_a_candidate() {
        assert!(has_candidate(POLICY, "etcd-server"));
        assert!(!has_candidate(POLICY, "ghost"));
        assert!(!has_candidate(POLICY, "never-heard-of"));
        assert!(!has_candidate("", "etcd-server"));
    }
}
