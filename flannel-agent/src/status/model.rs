//! The state of a node: what the text and the JSON are made from.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::agent::Agent;
use crate::mac::Mac;

/// Version of the JSON. It rises when a field goes or gets another meaning.
pub const SCHEMA: u32 = 1;

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The worst state of its networks.
    pub state: State,
    /// The networks that the node belongs to.
    pub networks: Vec<NetworkStatus>,
}

/// Whether something works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All is as it should be.
    #[default]
    Well,
    /// Packets are carried, and something is not as it should be.
    Degraded,
    /// Packets are not carried.
    NotWorking,
}

impl State {
    /// Returns the exit status of the command.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Degraded => 1,
            Self::NotWorking => 2,
        }
    }
}

/// Why a network is not well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// How bad it is.
    pub state: State,
    /// A sentence.
    pub text: String,
}

/// A network that the node belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkStatus {
    /// Its name on this node: `vxlan 1`.
    pub network: Option<String>,
    /// The worst of the reasons.
    pub state: State,
    /// Why it is not well, the worst first.
    pub reasons: Vec<Reason>,
    /// The backend.
    pub backend: Option<String>,
    /// What carries packets: `bpf`, `netlink` (the kernel's vxlan device), or the backend's name.
    pub dataplane: Option<String>,
    /// Why BPF does not carry them.
    pub without_bpf: Option<String>,
    /// The subnet file; `None` for programs that belong to none of the files that were found.
    pub subnet_file: Option<PathBuf>,
    /// The network's prefixes, by the subnet file.
    pub prefixes: Vec<String>,
    /// The node's subnets.
    pub subnets: Vec<String>,
    /// The pods' MTU in bytes.
    pub mtu: Option<u32>,
    /// The agent, and what it says.
    pub agent: Agent,
    /// The vxlan devices and uplinks.
    pub devices: Vec<Device>,
    /// The datastore, by the agent or by the file of what it knew.
    pub datastore: Option<String>,
    /// The other nodes, by subnet.
    pub peers: Vec<PeerStatus>,
    /// The BPF programs.
    pub programs: Vec<ProgramStatus>,
    /// How many ports of pods may take the shortcut.
    pub fast_ports: usize,
    /// What became of packets; `None` without BPF programs.
    pub traffic: Option<Traffic>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A vxlan device.
    Overlay,
    /// The interface that carries outer packets.
    Uplink,
}

/// A device on the way of packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
    /// Whether it is up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The node's address there, if it is known.
    pub address: Option<IpAddr>,
}

/// Another node, in one address family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// Its subnet.
    pub subnet: String,
    /// Its public address.
    pub public_ip: IpAddr,
    /// MAC of its vxlan device.
    pub mac: Option<Mac>,
    /// How packets get there.
    pub way: Way,
}

/// How packets get to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// In VXLAN, by BPF programs.
    Vxlan,
    /// In VXLAN, by the kernel's device alone.
    Floor,
    /// By a route without a tunnel.
    OnLink,
    /// By the agent itself (backend udp).
    Udp,
    /// By the cloud's routes (backends aws-vpc, gce and ali-vpc).
    Cloud,
    /// By something else (backend alloc).
    Other,
    /// Not at all: there is no route.
    Missing,
}

impl Way {
    /// Returns its name, as JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Floor => "floor",
            Self::OnLink => "on-link",
            Self::Udp => "udp",
            Self::Cloud => "cloud",
            Self::Other => "other",
            Self::Missing => "missing",
        }
    }
}

/// A BPF program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramStatus {
    /// Its name, which is its hook's.
    pub program: &'static str,
    /// The interfaces that have it.
    pub interfaces: Vec<String>,
    /// The interfaces that should have it, and do not.
    pub missing: Vec<String>,
    /// Whether it belongs to ports of pods, which get their programs one by one.
    pub of_ports: bool,
    /// How often it has run since it was loaded; `None` unless the kernel counts (`kernel.bpf_stats_enabled`).
    pub runs: Option<u64>,
    /// How long a run took on average, in nanoseconds.
    pub nanoseconds_a_run: Option<u64>,
}

/// What became of packets since the counters were made. An aggregate counts once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Packets that passed by the host stack.
    pub shortcut: u64,
    /// Packets that programs wrapped or unwrapped, through the host stack.
    pub programs: u64,
    /// Packets that the programs left to the kernel.
    pub floor: u64,
    /// Packets that the programs dropped, the most frequent reason first.
    pub drops: Vec<Drop>,
}

/// Packets that were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drop {
    /// Name of the outcome.
    pub outcome: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// How many.
    pub packets: u64,
}
