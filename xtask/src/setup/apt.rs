//! Debian's and Ubuntu's packages.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use flannel_tests::tools::find_program;

use super::lock;
use super::services::Quiet;
use crate::phase;

pub(crate) mod source;
pub(crate) mod unpack;

/// The lock on the lists of packages. apt waits for its other locks by itself.
const LISTS_LOCK: &str = "/var/lib/apt/lists/lock";
/// `--no-remove` keeps every package that the user has.
const INSTALL: [&str; 4] = ["install", "--yes", "--no-install-recommends", "--no-remove"];
/// The same, but ends when the plan is printed, and takes no lock. Answering "no" is not enough: apt does not ask if it needs
/// nothing else than the packages named, and with `--yes` never.
const PLAN: [&str; 7] = [
    "install",
    "--print-uris",
    "--assume-no",
    "--no-install-recommends",
    "--no-remove",
    "-o",
    "Debug::NoLocking=1",
];

/// Returns whether this system has apt.
pub(crate) fn exists() -> bool {
    find_program("apt-get").is_some()
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

/// Returns what apt says of the sizes of these packages and of what they need. None if its lists lack one.
pub(crate) fn cost(packages: &BTreeSet<&'static str>) -> Option<String> {
    if packages.is_empty() {
        return None;
    }
    sizes(&ask(apt_get().args(PLAN).args(packages)).ok()?)
}

fn sizes(plan: &str) -> Option<String> {
    let lines = plan.lines().filter(|line| line.starts_with("Need to get") || line.starts_with("After this"));
    Some(lines.collect::<Vec<_>>().join(" ")).filter(|text| !text.is_empty())
}

/// Returns the same as a shell command.
pub(crate) fn shell(packages: &BTreeSet<&'static str>) -> String {
    let packages: Vec<_> = packages.iter().copied().collect();
    format!("apt-get update && apt-get {} {}", INSTALL.join(" "), packages.join(" "))
}

/// Renews the lists of packages. Goes on with the lists at hand where a source does not answer.
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

/// Returns what the command prints, in English.
fn ask(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().with_context(|| format!("cannot run {name}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads the output of `apt-cache policy`, which leaves out unknown names.
fn has_candidate(policy: &str, package: &str) -> bool {
    let mut lines = policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package));
    let candidate = lines.find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.is_some_and(|version| version != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_apts_plan() {
        let plan = "The following NEW packages will be installed:\n  tshark\nNeed to get 161 kB of archives.\n\
            After this operation, 410 kB of additional disk space will be used.\nDo you want to continue? [Y/n] N\n";
        assert!(
            sizes(plan).is_some_and(|text| text.starts_with("Need to get 161 kB of archives. After this"))
        );
        assert_eq!(sizes("E: Unable to locate package tshark\n"), None);
    }

    #[test]
    fn the_plan_of_an_installation_installs_nothing() {
        assert!(PLAN.contains(&"--print-uris") && !PLAN.contains(&"--yes"));
        let wanted = INSTALL.iter().filter(|argument| **argument != "--yes");
        assert!(wanted.clone().all(|argument| PLAN.contains(argument)), "it is not the plan of {INSTALL:?}");
    }

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
