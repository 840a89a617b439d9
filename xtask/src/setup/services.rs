//! Keeps services off that come with packages, now and at the next boot: etcd-server would start an etcd on its
//! standard port, and only its programs are needed.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process;

use anyhow::{Context, Result};

use crate::phase;

/// The program that packages' scripts run before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Marks a policy that a killed set-up has left behind.
const MARK: &str = "# written by flannel's xtask";
/// Packages, and the units that would start at boot. `containerd` comes with `docker.io`.
const UNITS: [(&str, &str); 6] = [
    ("etcd-server", "etcd.service"),
    ("docker.io", "docker.service"),
    ("docker.io", "docker.socket"),
    ("docker.io", "containerd.service"),
    ("containerd", "containerd.service"),
    ("prometheus", "prometheus.service"),
];
/// Where an administrator's units take precedence.
const UNIT_FOLDER: &str = "/etc/systemd/system";

/// Returns the units of these packages that are kept off, and are not yet.
pub(super) fn masked_by(packages: &BTreeSet<&'static str>) -> Vec<&'static str> {
    let is_new = |unit: &&str| Path::new(UNIT_FOLDER).join(unit).symlink_metadata().is_err();
    units_of(packages).into_iter().filter(is_new).collect()
}

/// Returns the units that would start at boot, each once: several packages may bring one.
fn units_of(packages: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
    UNITS.iter().filter(|(package, _)| packages.contains(package)).map(|(_, unit)| *unit).collect()
}

/// Keeps packages from starting services until it is dropped.
pub(super) struct Quiet {
    wrote_policy: bool,
}

impl Quiet {
    /// Masks the packages' units and forbids starting services. To be called before the packages are installed.
    pub(super) fn start(packages: &BTreeSet<&'static str>) -> Result<Self> {
        for unit in masked_by(packages) {
            mask(&Path::new(UNIT_FOLDER).join(unit))?;
        }
        // A policy without the mark is the administrator's or the container image's, and stays.
        let wrote_policy = fs::read_to_string(POLICY).map_or(true, |text| text.contains(MARK));
        if wrote_policy {
            fs::write(POLICY, policy()).with_context(|| format!("cannot write {POLICY}"))?;
            fs::set_permissions(POLICY, Permissions::from_mode(0o755))?;
        }
        Ok(Self { wrote_policy })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.wrote_policy
            && let Err(error) = fs::remove_file(POLICY)
        {
            phase::note(&format!("cannot remove {POLICY}: {error}"));
        }
    }
}

/// Returns a script that forbids services (status 101) while this process lives: it expires if the process is killed.
fn policy() -> String {
    format!("#!/bin/sh\n{MARK}\nkill -0 {} 2>/dev/null && exit 101\nexit 0\n", process::id())
}

/// Does what `systemctl mask` does, on systems without it, too, and for units that are not installed yet.
fn mask(unit: &Path) -> Result<()> {
    if let Some(folder) = unit.parent() {
        fs::create_dir_all(folder)?;
    }
    symlink("/dev/null", unit).with_context(|| format!("cannot mask {}", unit.display()))?;
    phase::note(&format!("kept the package's service off: {} is masked", unit.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_two_packages_is_masked_once() {
        let units = units_of(&BTreeSet::from(["containerd", "docker.io"]));
        assert_eq!(units, BTreeSet::from(["containerd.service", "docker.service", "docker.socket"]));
        assert_eq!(units_of(&BTreeSet::from(["tcpdump"])), BTreeSet::new());
    }
}
