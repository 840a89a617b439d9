//! Other networks of the node, whose things stay.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use ipnet::IpNet;

use crate::dataplane::kernel::Kernel;
use crate::netlink::address::ip_of;
use crate::netlink::link::Link;
use crate::paths::Paths;
use crate::processes::{self, Process};
use crate::subnet_file;

/// A running flannel daemon of this network namespace.
pub(crate) struct Daemon {
    /// Its process ID.
    pub(crate) pid: u32,
    /// `flannel-agent` or `flanneld`.
    pub(crate) name: String,
    /// Its subnet file, by a path that this process can read.
    pub(crate) subnet_file: PathBuf,
}

/// Which networks stay when `own` is removed.
pub(super) struct Others {
    own: Vec<IpNet>,
    /// Networks, and addresses of devices, of others.
    others: Vec<IpNet>,
}

impl Others {
    /// Asks the running daemons for their networks, and the devices for their addresses.
    ///
    /// # Errors
    /// A daemon of the network to remove is running, or it cannot be told whose network that is.
    pub(super) async fn find(paths: &Paths, kernel: &Kernel, links: &[Link]) -> Result<Self> {
        let own = subnet_file::read_networks(&paths.subnet_file);
        let mut others = Vec::new();
        for Daemon { pid, subnet_file, .. } in daemons()? {
            let networks = subnet_file::read_networks(&subnet_file);
            if is_same_file(&subnet_file, &paths.subnet_file) || networks.iter().any(|net| own.contains(net))
            {
                bail!("a flannel daemon is running in this network namespace (pid {pid}): stop it first");
            }
            if own.is_empty() {
                bail!(
                    "the daemon of another network is running (pid {pid}), and {} does not say which network to remove: \
                     name its file by --subnet-file, or stop the daemon to remove everything",
                    paths.subnet_file.display()
                );
            }
            others.extend(networks);
        }
        if !own.is_empty() {
            let addresses = addresses(kernel, links).await?.into_iter();
            others.extend(addresses.filter(|address| !own.iter().any(|own| own.contains(address))));
        }
        Ok(Self { own, others })
    }

    /// Returns the networks to remove; `None` if all are.
    pub(super) fn own(&self) -> Option<&[IpNet]> {
        (!self.others.is_empty()).then_some(&self.own)
    }

    /// Returns whether a network is, or may be, another one than the one to remove.
    pub(super) fn has(&self, network: IpNet) -> bool {
        self.others.iter().any(|other| network.contains(other) || other.contains(&network))
    }

    /// Returns the devices of the other networks.
    pub(super) async fn devices(&self, kernel: &Kernel, links: &[Link]) -> Result<Vec<Link>> {
        let mut devices = Vec::new();
        for link in links.iter().filter(|link| link.is_flannel_device()) {
            let addresses = addresses(kernel, std::slice::from_ref(link)).await?;
            if addresses.into_iter().any(|address| self.has(address)) {
                devices.push(link.clone());
            }
        }
        Ok(devices)
    }
}

/// Returns the global addresses of flannel's devices.
async fn addresses(kernel: &Kernel, links: &[Link]) -> Result<Vec<IpNet>> {
    let all: Vec<_> =
        kernel.handle().address().get().execute().try_collect().await.context("listing addresses")?;
    let is_device = |index| links.iter().any(|link: &Link| link.index == index && link.is_flannel_device());
    let addresses = all.iter().filter(|address| is_device(address.header.index)).filter_map(ip_of);
    Ok(addresses.filter(is_global).map(IpNet::from).collect())
}

fn is_global(address: &IpAddr) -> bool {
    !matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(address))
}

/// Lists the processes in this network namespace that have the name of the agent or of flanneld and run no subcommand.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn daemons() -> Result<Vec<Daemon>> {
    let found =
        processes::named(&["flannel-agent", "flanneld"]).context("looking for running daemons in /proc")?;
    let is_daemon =
        |pid| !runs_subcommand(&fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    let daemons = found.into_iter().filter(|process| is_daemon(process.pid));
    Ok(daemons.map(|Process { pid, name }| Daemon { pid, name, subnet_file: subnet_file_of(pid) }).collect())
}

/// Returns whether the words of a command line, each ended by a null byte, name a subcommand. A daemon has flags alone. Pure.
fn runs_subcommand(words: &str) -> bool {
    words.split('\0').nth(1).is_some_and(|word| !word.is_empty() && !word.starts_with('-'))
}

fn subnet_file_of(pid: u32) -> PathBuf {
    let words = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let file = chosen_file(&words("cmdline"), &words("environ"));
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let file = folder.join(file);
    // The daemon may be in a container, with a file system of its own.
    Path::new(&format!("/proc/{pid}/root")).join(file.strip_prefix("/").unwrap_or(&file))
}

/// Returns the subnet file by the flags and the environment of a daemon, each ended by a null byte. Pure.
fn chosen_file(flags: &str, environment: &str) -> String {
    let mut flags = flags.split('\0').map(|word| word.trim_start_matches('-'));
    let mut by_flag = None;
    while let Some(word) = flags.next() {
        if word == "subnet-file" {
            by_flag = flags.next().or(by_flag);
        }
        by_flag = word.strip_prefix("subnet-file=").or(by_flag);
    }
    let by_environment =
        || environment.split('\0').find_map(|word| word.strip_prefix("FLANNELD_SUBNET_FILE="));
    by_flag.or_else(by_environment).unwrap_or(Paths::SUBNET_FILE).to_owned()
}

/// Returns whether both paths are of one file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    match (id(one), id(other)) {
        (Ok(one), Ok(other)) => one == other,
        // Not written yet, or removed.
        (Err(_), Err(_)) => one.ends_with(other.strip_prefix("/").unwrap_or(other)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subcommand_is_told_from_the_daemon() {
        for (words, expected) in [
            ("flannel-agent\0status\0--json\0", true),
            ("flannel-agent\0--ip-masq\0", false),
            ("flanneld\0", false),
            ("", false),
        ] {
            assert_eq!(runs_subcommand(words), expected, "{words:?}");
        }
    }

    #[test]
    fn a_daemon_s_subnet_file_is_that_of_its_flag_else_of_its_environment() {
        for (flags, environment, expected) in [
            ("flanneld\0", "", "/run/flannel/subnet.env"),
            ("flanneld\0-subnet-file=/a\0", "FLANNELD_SUBNET_FILE=/b\0", "/a"),
            ("flannel-agent\0--subnet-file\0/a\0--ip-masq\0", "", "/a"),
            ("flannel-agent\0--ip-masq\0", "PATH=/bin\0FLANNELD_SUBNET_FILE=/b\0", "/b"),
        ] {
            assert_eq!(chosen_file(flags, environment), expected, "{flags:?}, {environment:?}");
        }
    }
}
