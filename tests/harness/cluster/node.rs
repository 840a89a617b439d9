//! A node: a namespace with an uplink, a management interface, and the files of its daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::wiring::Wired;
use crate::netns::NetNs;
use crate::pod::{self, Pod};
use crate::subnet_env::SubnetEnv;
use crate::traffic::Host;
use crate::workdir::{self, Workdir};

/// A node of a [`super::Cluster`].
#[derive(Debug)]
pub struct Node {
    label: String,
    netns: Arc<NetNs>,
    ip: Ipv4Addr,
    ip6: Ipv6Addr,
    mtu: u32,
    dir: PathBuf,
    bpffs: OnceLock<PathBuf>,
    bridge: Mutex<Option<SubnetEnv>>,
    pods: Mutex<u16>,
    pub(crate) workdir: Arc<Workdir>,
}

/// Counters of an interface since it was created.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

impl Node {
    pub(super) fn new(wired: Wired, workdir: &Arc<Workdir>) -> Result<Self> {
        let Wired { label, netns, ip, ip6, mtu } = wired;
        Ok(Self {
            dir: workdir.subdir(&label)?,
            label,
            netns: Arc::new(netns),
            ip,
            ip6,
            mtu,
            bpffs: OnceLock::new(),
            bridge: Mutex::default(),
            pods: Mutex::default(),
            workdir: Arc::clone(workdir),
        })
    }

    /// Returns its name: `node1`, `node2` and so on.
    pub fn name(&self) -> &str {
        &self.label
    }

    /// Returns its namespace.
    pub fn netns(&self) -> &Arc<NetNs> {
        &self.netns
    }

    /// Returns its IPv4 address on the underlay.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Returns its IPv6 address on the underlay.
    pub fn ip6(&self) -> Ipv6Addr {
        self.ip6
    }

    /// Returns the MTU of its uplink `eth0`.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Returns the folder with its logs and files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path where its daemon writes `subnet.env`.
    pub fn subnet_file(&self) -> PathBuf {
        self.dir.join("subnet.env")
    }

    /// Reads its `subnet.env`.
    pub fn subnet_env(&self) -> Result<SubnetEnv> {
        SubnetEnv::read(&self.subnet_file())
    }

    /// Returns the mount point of its own BPF file system; the first call mounts it.
    pub fn bpffs(&self) -> Result<&Path> {
        if self.bpffs.get().is_none() {
            let path = self.dir.join("bpf");
            workdir::mount_bpffs(&path)?;
            return Ok(self.bpffs.get_or_init(|| path));
        }
        self.bpffs.get().map(PathBuf::as_path).context("the bpffs is mounted")
    }

    /// Runs a command line in the namespace and returns its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        self.netns.exec(line)
    }

    /// Returns the receive and transmit counters of an interface.
    pub fn counters(&self, interface: &str) -> Result<(Counters, Counters)> {
        let links = self.netns.exec_json(&format!("ip -j -s link show dev {interface}"))?;
        let part =
            |direction: &str| Counters::deserialize(&links[0]["stats64"][direction]).context("read counters");
        Ok((part("rx")?, part("tx")?))
    }

    /// Creates the pods' bridge `cni0` with the gateway address and MTU of a subnet, as the CNI plugin does.
    pub fn bridge(&self, subnet: &SubnetEnv) -> Result<()> {
        let mut bridge = self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        pod::make_bridge(&self.netns, subnet)?;
        *bridge = Some(subnet.clone());
        Ok(())
    }

    /// Adds a pod. The first one also creates the bridge from `subnet.env`.
    pub fn add_pod(&self) -> Result<Pod> {
        let subnet = self.bridged_subnet().with_context(|| format!("add a pod to {}", self.label))?;
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        *pods += 1;
        Pod::plug(&self.netns, &subnet, *pods)
    }

    /// Removes a pod of this node and creates another one with the same addresses.
    pub fn replace_pod(&self, pod: Pod) -> Result<Pod> {
        let number = pod.unplug(&self.netns)?;
        Pod::plug(&self.netns, &self.bridged_subnet()?, number)
    }

    fn bridged_subnet(&self) -> Result<SubnetEnv> {
        let known = self.bridge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(subnet) = known {
            return Ok(subnet);
        }
        let subnet = self.subnet_env()?;
        self.bridge(&subnet)?;
        Ok(subnet)
    }
}

impl Host for Node {
    fn netns(&self) -> &NetNs {
        &self.netns
    }

    fn ip(&self) -> IpAddr {
        IpAddr::V4(self.ip)
    }
}
