//! Where programs, maps and links outlive the agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use flannel_common::abi;
use flannel_common::node::NodeConfig;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::{info, warn};

use super::family::resized;

/// The VNIs of the overlays whose objects are pinned below the BPF filesystem at `bpffs`.
///
/// # Errors
/// The folder is there and cannot be read.
pub fn vnis(bpffs: &Path) -> io::Result<Vec<u32>> {
    match fs::read_dir(bpffs.join(abi::PIN_DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        overlays => {
            Ok(overlays?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        }
    }
}

/// The folder of one overlay's pins.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: PathBuf,
    dir: PathBuf,
}

impl Pins {
    /// The pins of the overlay `vni` below the BPF filesystem at `bpffs`.
    #[must_use]
    pub fn new(bpffs: &Path, vni: u32) -> Self {
        let dir = bpffs.join(abi::PIN_DIR).join(vni.to_string());
        Self { bpffs: bpffs.to_owned(), dir }
    }

    /// Where the object of this name is pinned.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether an earlier agent has left anything here.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.dir.exists()
    }

    /// Mounts the BPF filesystem if need be, makes the folder, and removes maps that we would misread, or whose size is not
    /// that of such a node. Returns what the previous agent knew of the node, if its maps stay.
    pub(super) fn prepare(&self, node: &NodeConfig) -> Result<Option<NodeConfig>> {
        self.mount()?;
        fs::create_dir_all(&self.dir).with_context(|| format!("creating {}", self.dir.display()))?;
        match self.pinned_node() {
            Some(previous) if previous.layout == abi::LAYOUT => {
                resized(&previous, node).try_for_each(|name| remove(&self.path(name)))?;
                self.tell_mtu(previous, node)?;
                Ok(Some(previous))
            }
            other => {
                if let Some(NodeConfig { layout, .. }) = other {
                    info!(layout, ours = abi::LAYOUT, "pinned maps of another layout are rebuilt");
                }
                abi::PINNED_MAPS.iter().try_for_each(|name| remove(&self.path(name)))?;
                Ok(None)
            }
        }
    }

    /// Pins something in place of what has this name.
    pub(super) fn replace(&self, name: &str, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let path = self.path(name);
        remove(&path)?;
        pin(&path).with_context(|| format!("pinning {}", path.display()))
    }

    /// Removes what has this name, if anything has.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        remove(&self.path(name))
    }

    /// The names of all that is pinned.
    pub(super) fn names(&self) -> Vec<String> {
        let pins = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        pins.filter_map(|pin| pin.file_name().into_string().ok()).collect()
    }

    /// Removes every pin: what is attached by pinned links alone detaches.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn remove_all(&self) -> Result<()> {
        let Ok(pins) = fs::read_dir(&self.dir) else { return Ok(()) };
        for pin in pins {
            remove(&pin?.path())?;
        }
        fs::remove_dir(&self.dir).with_context(|| format!("removing {}", self.dir.display()))
    }

    fn pinned_node(&self) -> Option<NodeConfig> {
        // A value of another size is refused here.
        self.config().ok()?.get(&0, 0).ok()
    }

    fn config(&self) -> Result<Array<MapData, NodeConfig>> {
        let data = MapData::from_pin(self.path(abi::CONFIG))?;
        Ok(Map::from_map_data(data)?.try_into()?)
    }

    /// The programs of the agent before run on while ours are loaded: they shall not send what the uplink no longer takes.
    fn tell_mtu(&self, previous: NodeConfig, node: &NodeConfig) -> Result<()> {
        let mut told = previous;
        (told.v4.uplink_mtu, told.v6.uplink_mtu) = (node.v4.uplink_mtu, node.v6.uplink_mtu);
        if told == previous {
            return Ok(());
        }
        self.config()?.set(0, told, 0).context("writing the uplink's MTU to the BPF map CONFIG")
    }

    fn mount(&self) -> Result<()> {
        let path = self.bpffs.as_path();
        if statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
            return Ok(());
        }
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700")).with_context(|| {
            let path = path.display();
            format!("{path} is no BPF filesystem and none can be mounted there (mount -t bpf bpf {path})")
        })?;
        warn!(path = %path.display(), "mounted a BPF filesystem; it was missing");
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
