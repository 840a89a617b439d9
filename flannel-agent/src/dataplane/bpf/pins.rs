//! Pins: programs, maps and links in the BPF filesystem, where they outlive the agent.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapInfo};
use flannel_common::abi;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::{Hook, Metrics};
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;
use tracing::{debug, info, warn};

use super::sizes::sizes;

/// Mode of the folders of pins. The kernel makes pins themselves 0600.
const PRIVATE: u32 = 0o700;

/// Returns how messages name the network with this VNI, or with this number instead ([`Pins::routed`]).
#[must_use]
pub fn title(vni: u32) -> String {
    if is_routed(vni) { format!("routes {vni}") } else { format!("VNI {vni}") }
}

/// Returns whether this is the number of a network without tunnels, and no VNI.
#[must_use]
pub const fn is_routed(vni: u32) -> bool {
    vni & abi::ROUTED != 0
}

/// Returns the VNIs of the overlays with pins in the BPF filesystem at `bpffs`, or what stands for them ([`Pins::routed`]).
///
/// # Errors
/// The directory cannot be read.
pub fn vnis(bpffs: &Path) -> io::Result<Vec<u32>> {
    match fs::read_dir(bpffs.join(abi::PIN_DIR)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        overlays => {
            Ok(overlays?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        }
    }
}

/// [`vnis`], of which there has to be one.
///
/// # Errors
/// The directory cannot be read, or no programs are pinned.
pub fn overlays(bpffs: &Path) -> Result<Vec<u32>> {
    let folder = bpffs.join(abi::PIN_DIR);
    let vnis = vnis(bpffs).with_context(|| format!("reading {}", folder.display()))?;
    ensure!(
        !vnis.is_empty(),
        "there are no programs below {}: the kernel carries all packets, or no agent has run here. If its files are elsewhere, \
         set --bpffs",
        folder.display()
    );
    Ok(vnis)
}

/// The directory of one overlay's pins.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: PathBuf,
    dir: PathBuf,
    vni: u32,
}

impl Pins {
    /// Returns the pins of the overlay `vni` in the BPF filesystem at `bpffs`.
    #[must_use]
    pub fn new(bpffs: &Path, vni: u32) -> Self {
        let dir = bpffs.join(abi::PIN_DIR).join(vni.to_string());
        Self { bpffs: bpffs.to_owned(), dir, vni }
    }

    /// Returns the number that stands for a VNI with a network without tunnels ([`abi::ROUTED`]): a hash of its prefixes (FNV-1a, of which 24
    /// bits stay).
    #[must_use]
    pub fn routed(networks: impl Iterator<Item = IpNet>) -> u32 {
        let text: Vec<_> = networks.map(|network| network.to_string()).collect();
        let hash = text
            .join(" ")
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        abi::ROUTED | (hash ^ hash >> 24) & 0xff_ffff
    }

    /// Returns the overlay's VNI, or [`Self::routed`].
    pub(in crate::dataplane) const fn vni(&self) -> u32 {
        self.vni
    }

    /// Returns the path of the pin with this name.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns whether the BPF filesystem's folder exists, and whether it is mounted there.
    #[must_use]
    pub fn place(&self) -> (bool, bool) {
        (self.bpffs.is_dir(), is_bpffs(&self.bpffs))
    }

    /// Returns the pins of all overlays in this BPF filesystem.
    pub(super) fn all_overlays(&self) -> impl Iterator<Item = Self> {
        let vnis = vnis(&self.bpffs).unwrap_or_default();
        vnis.into_iter().map(|vni| Self::new(&self.bpffs, vni))
    }

    /// Returns whether an earlier agent has left pins.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.dir.exists()
    }

    /// Mounts the BPF filesystem if it is missing, and makes the directory. Removes maps of another layout, or of another
    /// size than this node needs, which has room for `max_flows` of one family. Returns the previous agent's node if its maps stay.
    pub(super) fn prepare(&self, node: &NodeConfig, max_flows: u32) -> Result<Option<NodeConfig>> {
        mount_bpffs(&self.bpffs)?;
        make_private(&self.bpffs.join(abi::PIN_DIR))?;
        make_private(&self.dir)?;
        match self.pinned_node() {
            Some(previous) if previous.layout == abi::LAYOUT => {
                sizes(node, max_flows).try_for_each(|(name, entries)| self.remove_resized(name, entries))?;
                self.remove_other_counters()?;
                self.update_mtu(previous, node)?;
                Ok(Some(previous))
            }
            other => {
                if let Some(NodeConfig { layout, .. }) = other {
                    info!(layout, needed = abi::LAYOUT, "pinned maps of another layout are rebuilt");
                }
                abi::PINNED_MAPS.iter().try_for_each(|name| remove(&self.path(name)))?;
                Ok(None)
            }
        }
    }

    /// Replaces the pin with this name.
    pub(super) fn replace(&self, name: &str, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let path = self.path(name);
        remove(&path)?;
        pin(&path).with_context(|| format!("pinning {}", path.display()))
    }

    /// Removes the pin with this name, if there is one.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        remove(&self.path(name))
    }

    /// Returns the names of all pins.
    pub(super) fn names(&self) -> Vec<String> {
        let pins = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        pins.filter_map(|pin| pin.file_name().into_string().ok()).collect()
    }

    /// Returns the indexes of the interfaces in the names of this hook's links: `<program>_link_<index>`.
    pub(super) fn indexes(&self, hook: Hook) -> BTreeSet<u32> {
        let start = link_name(hook, "_");
        self.names().iter().filter_map(|name| name.strip_prefix(&start)?.parse().ok()).collect()
    }

    /// Removes all pins. What only pinned links attach is detached.
    ///
    /// # Errors
    /// A pin cannot be removed. The others are.
    pub fn remove_all(&self) -> Result<()> {
        let Ok(pins) = fs::read_dir(&self.dir) else { return Ok(()) };
        let removed: Vec<_> = pins.map(|pin| remove(&pin?.path())).collect();
        removed.into_iter().collect::<Result<()>>()?;
        fs::remove_dir(&self.dir).with_context(|| format!("removing {}", self.dir.display()))
    }

    /// Lets the vxlan device accept packets that no program has checked, until its program is detached as well. An unreadable
    /// map is of an earlier version, which the caller detaches all the same.
    pub(super) fn accept_unchecked(&self) {
        if let (Some(node), Ok(mut config)) = (self.pinned_node(), self.config())
            && let Err(error) = config.set(0, NodeConfig { only_checked: 0, ..node }, 0)
        {
            debug!(%error, "packets may be dropped until all programs are detached");
        }
    }

    fn pinned_node(&self) -> Option<NodeConfig> {
        // `aya` refuses a value of another size.
        self.config().ok()?.get(&0, 0).ok()
    }

    fn config(&self) -> Result<Array<MapData, NodeConfig>> {
        let data = MapData::from_pin(self.path(abi::CONFIG))?;
        Ok(Map::from_map_data(data)?.try_into()?)
    }

    /// Removes the map with this name if it has another size.
    fn remove_resized(&self, name: &str, entries: u32) -> Result<()> {
        match MapInfo::from_pin(self.path(name)) {
            Ok(map) if map.max_entries() != entries => self.remove(name),
            _ => Ok(()),
        }
    }

    /// Removes the counters of a version with more or fewer outcomes. Its programs go on counting there until they are replaced.
    fn remove_other_counters(&self) -> Result<()> {
        let counters = MapInfo::from_pin(self.path(abi::METRICS));
        match counters {
            Ok(counters) if counters.value_size() as usize != size_of::<Metrics>() => {
                self.remove(abi::METRICS)
            }
            _ => Ok(()),
        }
    }

    /// Gives the previous agent's programs the uplink's MTU: they run while the new ones are loaded, and must not send what
    /// has become too long.
    fn update_mtu(&self, previous: NodeConfig, node: &NodeConfig) -> Result<()> {
        let mut updated = previous;
        (updated.v4.uplink_mtu, updated.v6.uplink_mtu) = (node.v4.uplink_mtu, node.v6.uplink_mtu);
        if updated == previous {
            return Ok(());
        }
        self.config()?.set(0, updated, 0).context("writing the uplink's MTU to the BPF map CONFIG")
    }
}

/// Makes a folder that only this user may read and write, or makes an existing one such a folder.
///
/// # Errors
/// It cannot be made, or belongs to another user: a BPF filesystem may be writable for all users, and whoever has the folder can
/// remove and replace the pins in it.
fn make_private(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(PRIVATE).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.with_context(|| format!("creating {}", folder.display())),
    }
    let found = fs::symlink_metadata(folder).with_context(|| format!("looking at {}", folder.display()))?;
    let (path, user) = (folder.display(), geteuid());
    if !found.is_dir() || found.uid() != user.as_raw() {
        bail!(
            "{path} belongs to the user {}, who could replace the pins in it, and the agent runs as {user}: remove it (rm -r {path})",
            found.uid()
        );
    }
    if found.mode() & 0o777 != PRIVATE {
        fs::set_permissions(folder, Permissions::from_mode(PRIVATE))
            .with_context(|| format!("setting the mode of {path}"))?;
    }
    Ok(())
}

/// Mounts a BPF filesystem if it is missing, and gives the folder of the pins in it to a user, who can then run the agent. A
/// filesystem that is mounted here is given to the user as a whole.
///
/// # Errors
/// It cannot be mounted, or the folder belongs to a third user.
pub fn prepare_for(bpffs: &Path, user: u32) -> Result<()> {
    let is_new = !is_bpffs(bpffs);
    mount_bpffs(bpffs)?;
    let folder = bpffs.join(abi::PIN_DIR);
    if fs::symlink_metadata(&folder).map_or(true, |found| found.uid() != user) {
        make_private(&folder)?;
        // What is in it belongs to this user, so nobody else exchanges a folder for a link meanwhile.
        give(&folder, user).with_context(|| format!("giving {} to the user {user}", folder.display()))?;
    }
    if is_new {
        lchown(bpffs, Some(user), None)
            .with_context(|| format!("giving {} to the user {user}", bpffs.display()))?;
    }
    Ok(())
}

/// Gives a folder to a user, and before that what is in it.
fn give(folder: &Path, user: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), user)?;
        } else {
            lchown(entry.path(), Some(user), None)?;
        }
    }
    lchown(folder, Some(user), None)
}

/// Mounts a BPF filesystem, unless there is one.
///
/// # Errors
/// It cannot be mounted.
pub fn mount_bpffs(path: &Path) -> Result<()> {
    if is_bpffs(path) {
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

/// Returns whether a BPF filesystem is mounted at this path.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Returns the name of the pin of a hook's link. `suffix` tells links of one hook apart.
pub(super) fn link_name(hook: Hook, suffix: impl Display) -> String {
    format!("{}_link{suffix}", hook.program())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
