//! Where the state of a network is read from: the files of its agent, the agent itself, and the pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnet::IpNet;

use super::agent::{Agent, ask};
use crate::config::Backend;
use crate::dataplane::bpf::inspect::Inspection;
use crate::dataplane::bpf::pins::{self, Pins};
use crate::dataplane::kernel::Kernel;
use crate::lease::{LastKnown, SubnetKey};
use crate::paths::Paths;
use crate::subnet_file::parse_subnet;

/// The name of what the daemon knew, behind that of the subnet file.
const KNOWN: &str = ".last-known.json";

/// Everything that is known of a network.
#[derive(Default)]
pub(super) struct Sources {
    /// The subnet file.
    pub(super) file: Option<PathBuf>,
    /// Its text.
    pub(super) env: String,
    /// What the agent knew last, and of which datastore.
    pub(super) known: Option<(LastKnown, String)>,
    /// When it wrote that.
    pub(super) known_at: Option<SystemTime>,
    pub(super) agent: Agent,
    /// The programs and maps.
    pub(super) overlay: Option<Inspection>,
    pub(super) vni: Option<u32>,
    /// What could not be read, and why.
    pub(super) unread: Vec<String>,
}

/// Reads what is on the node. There is at least one network, about which nothing may be known.
pub(super) async fn find(paths: &Paths, kernel: &Kernel) -> Vec<Sources> {
    let mut networks = Vec::new();
    for file in subnet_files(&paths.subnet_file) {
        networks.push(Sources::of_file(Paths { subnet_file: file, bpffs: paths.bpffs.clone() }).await);
    }
    let pinned = pins::vnis(&paths.bpffs).map_err(|error| format!("{}: {error}", paths.bpffs.display()));
    if let Err(error) = &pinned {
        networks.iter_mut().for_each(|network| network.unread.push(error.clone()));
    }
    let mut others = Vec::new();
    for vni in pinned.unwrap_or_default() {
        let overlay = Inspection::of(&Pins::new(&paths.bpffs, vni), kernel).await;
        let owner = networks.iter_mut().find(|network| match network.vni {
            Some(of) => of == vni,
            None => overlay.as_ref().is_ok_and(|overlay| network.has_a_subnet_of(overlay)),
        });
        match owner {
            Some(network) => network.add(vni, overlay),
            None => {
                let mut network = Sources::default();
                network.add(vni, overlay);
                others.push(network);
            }
        }
    }
    networks.extend(others);
    // The given file may not be that of any network here.
    if networks.iter().any(|network| !network.is_empty()) {
        networks.retain(|network| !network.is_empty());
    }
    networks
}

/// Returns the given subnet file, and those beside it that agents have written.
fn subnet_files(given: &Path) -> Vec<PathBuf> {
    let mut files = vec![given.to_owned()];
    let folder = given.parent().map(Path::to_owned).unwrap_or_default();
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut others: Vec<_> = names
        .filter_map(|name| Some(folder.join(format!("{}.env", name.strip_suffix(KNOWN)?))))
        .filter(|file| file.with_extension("") != given.with_extension(""))
        .collect();
    others.sort();
    files.append(&mut others);
    files
}

impl Sources {
    async fn of_file(paths: Paths) -> Self {
        let mut unread = Vec::new();
        let known = LastKnown::read_any(&paths.last_known()).unwrap_or_else(|error| {
            unread.push(format!("{}: {error:#}", paths.last_known().display()));
            None
        });
        let known_at = fs::metadata(paths.last_known()).and_then(|file| file.modified()).ok();
        let env = fs::read_to_string(&paths.subnet_file).unwrap_or_default();
        let agent = match ask(&paths.report()).await {
            Agent::Absent => {
                Agent::without_socket(known.as_ref().and_then(|(known, _)| known.network.name_on_node()))
            }
            asked => asked,
        };
        let vni = known.as_ref().and_then(|(known, _)| match &known.network.backend {
            Backend::Vxlan(vxlan) => Some(vxlan.vni),
            _ => None,
        });
        let vni = agent.vni().or(vni);
        Self { file: Some(paths.subnet_file), env, known, known_at, agent, overlay: None, vni, unread }
    }

    fn add(&mut self, vni: u32, overlay: anyhow::Result<Inspection>) {
        self.vni = self.vni.or(Some(vni).filter(|vni| !pins::is_routed(*vni)));
        match overlay {
            Ok(overlay) => self.overlay = Some(overlay),
            Err(error) => {
                self.unread.push(format!("the BPF programs and maps of {}: {error:#}", pins::title(vni)));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.env.is_empty() && self.known.is_none() && self.overlay.is_none() && self.agent == Agent::Absent
    }

    /// Returns the file of what the agent knew last.
    pub(super) fn known_file(&self) -> Option<PathBuf> {
        self.file.as_deref().map(Paths::last_known_beside)
    }

    /// Returns the network's name on this node.
    pub(super) fn network(&self) -> Option<String> {
        let known = || self.known.as_ref().and_then(|(known, _)| known.network.name_on_node());
        self.agent.network().cloned().or_else(known)
    }

    /// Returns the datastore's kind and place.
    pub(super) fn datastore(&self) -> Option<String> {
        let known = || self.known.as_ref().map(|(_, datastore)| datastore.clone());
        self.agent.datastore().cloned().or_else(known)
    }

    /// Returns the node's own subnets.
    pub(super) fn subnets(&self) -> Vec<IpNet> {
        let in_file = parse_subnet(&self.env);
        let in_file: Vec<_> = in_file.iter().flat_map(SubnetKey::nets).collect();
        let in_maps = || self.overlay.iter().flat_map(Inspection::own_subnets).collect();
        // Others may have removed the file, and the agent writes it again some seconds later.
        let carried = || self.agent.carrying().map(|carrying| &carrying.subnets[..]).unwrap_or_default();
        let found = [in_file, in_maps(), carried().iter().filter_map(|subnet| subnet.parse().ok()).collect()];
        found.into_iter().find(|subnets| !subnets.is_empty()).unwrap_or_default()
    }

    fn has_a_subnet_of(&self, overlay: &Inspection) -> bool {
        let subnets = self.subnets();
        overlay.own_subnets().any(|own| subnets.contains(&own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_all_networks_in_the_folder_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["subnet.env", "subnet.last-known.json", "two.last-known.json", "other.json"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = |given: &str| subnet_files(&dir.path().join(given));
        assert_eq!(found("subnet.env"), ["subnet.env", "two.env"].map(|name| dir.path().join(name)));
        assert_eq!(found("two.txt"), ["two.txt", "subnet.env"].map(|name| dir.path().join(name)));
        assert_eq!(subnet_files(Path::new("/nowhere/at/all.env")), [Path::new("/nowhere/at/all.env")]);
    }
}
