//! Packages bring services along (etcd-server starts an etcd on its standard port). The project wants
//! the programs only, so nothing may start: not while they are installed, not at the next boot.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process;

use anyhow::{Context, Result};

use crate::phase;

/// Packages' scripts ask this program before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// How a policy that was left behind is known.
const MARK: &str = "# written by flannel's xtask";
/// Packages whose service would start at boot, and its unit. `containerd` comes with `docker.io`.
const UNITS: [(&str, &str); 4] = [
    ("etcd-server", "etcd.service"),
    ("docker.io", "docker.service"),
    ("docker.io", "docker.socket"),
    ("docker.io", "containerd.service"),
];
/// Where the administrator's word on units stands.
const UNIT_FOLDER: &str = "/etc/systemd/system";

/// As long as this lives, packages start no services.
pub(crate) struct Quiet {
    ours: bool,
}

impl Quiet {
    /// Before the packages are installed.
    pub(crate) fn start(packages: &BTreeSet<&'static str>) -> Result<Self> {
        for (_, unit) in UNITS.iter().filter(|(package, _)| packages.contains(package)) {
            mask(&Path::new(UNIT_FOLDER).join(unit))?;
        }
        // A policy that is not ours is the administrator's, or the container image's: it stays.
        let ours = fs::read_to_string(POLICY).map_or(true, |text| text.contains(MARK));
        if ours {
            fs::write(POLICY, policy()).with_context(|| format!("cannot write {POLICY}"))?;
            fs::set_permissions(POLICY, Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            phase::note(&format!("cannot remove {POLICY}: {error}"));
        }
    }
}

/// Forbids (101) as long as this process lives, so that it expires even if the process is killed.
fn policy() -> String {
    format!("#!/bin/sh\n{MARK}\nkill -0 {} 2>/dev/null && exit 101\nexit 0\n", process::id())
}

/// What `systemctl mask` does; that program may be missing where the package is not yet installed.
fn mask(unit: &Path) -> Result<()> {
    if unit.symlink_metadata().is_ok() {
        return Ok(());
    }
    if let Some(folder) = unit.parent() {
        fs::create_dir_all(folder)?;
    }
    symlink("/dev/null", unit).with_context(|| format!("cannot mask {}", unit.display()))?;
    phase::note(&format!("the system's own service stays off ({} is masked)", unit.display()));
    Ok(())
}
