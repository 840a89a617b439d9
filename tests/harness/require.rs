//! What the bed needs from the machine, said clearly when it is not there.

use std::env;
use std::path::Path;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

/// Commands the bed or the suite runs, and the Debian package each comes from.
const PACKAGES: [(&str, &str); 14] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("iptables", "iptables"),
    ("iptables-restore", "iptables"),
    ("nft", "nftables"),
    ("iperf3", "iperf3"),
    ("tshark", "tshark"),
    ("bpftool", "bpftool"),
    ("setpriv", "util-linux"),
    ("ethtool", "ethtool"),
    ("dockerd", "docker.io"),
    ("busybox", "busybox-static"),
];

/// Fails unless the process may make network namespaces and mounts.
pub fn require_root() -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    bail!("the test bed makes network namespaces and mounts: run it as root (sudo -E cargo xtask test)")
}

/// Fails unless every command is installed.
pub fn require_commands(commands: &[&str]) -> Result<()> {
    let missing: Vec<_> = commands.iter().filter(|command| !is_installed(command)).map(|c| hint(c)).collect();
    if missing.is_empty() { Ok(()) } else { bail!(missing.join("; ")) }
}

/// What to do about a command that is not installed.
pub(crate) fn hint(command: &str) -> String {
    let package =
        PACKAGES.iter().find(|(known, _)| *known == command).map_or(command, |(_, package)| package);
    format!(
        "`{command}` is not installed: apt-get install {package}, or cargo xtask test, which installs all of it"
    )
}

fn is_installed(command: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    Path::new(command).is_file() || env::split_paths(&path).any(|folder| folder.join(command).is_file())
}
