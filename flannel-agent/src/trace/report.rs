//! The result of a trace: the packet's steps and its end, as text or JSON.

mod text;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use flannel_common::outcome::{Hook, Outcome};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::outer::OuterHeaders;
use super::packet::Packet;
use crate::mac::Mac;

/// Version of the JSON. It rises when a field goes or gets another meaning.
pub const SCHEMA: u32 = 1;

/// Where a packet would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The traced packet.
    pub packet: Packet,
    /// The VNI of the programs that were run; `None` if the kernel alone carries the packet.
    pub vni: Option<u32>,
    /// The steps in their order.
    pub steps: Vec<TraceStep>,
    /// Where the packet's path ends.
    pub end: TraceEnd,
    /// Whether that is so whatever the rules decide of which a step says that it is not known.
    pub certain: bool,
}

/// A step on the packet's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum TraceStep {
    /// A remark.
    Note {
        /// A sentence.
        text: String,
    },
    /// The lease of the node at the other end.
    Lease(LeaseHolder),
    /// The pod of this node.
    Pod {
        /// Its address.
        address: IpAddr,
        /// Its MAC.
        mac: Mac,
        /// Its port on the bridge.
        device: String,
    },
    /// What the programs know of the packet's flow.
    Flow(KnownFlow),
    /// The connection tracker knows the packet's connection.
    Connection {
        /// Whether the other side has answered.
        answered: bool,
    },
    /// The packet gets other addresses.
    Translation {
        /// What knows of it.
        by: Translator,
        /// The new source, with its port if that is known; `None` if it stays.
        source: Option<String>,
        /// The new destination.
        destination: Option<String>,
        /// The rules that do it, in the order in which they are met.
        rules: Vec<String>,
    },
    /// The packet may get one of several addresses, or keep its own.
    Choice {
        /// What knows of it.
        by: Translator,
        /// Which side: `source` or `destination`.
        side: &'static str,
        /// What may become of it.
        to: Vec<Choice>,
        /// Whether the address may also stay as it is.
        may_stay: bool,
        /// What is not known, and decides.
        depends_on: Vec<String>,
    },
    /// A rule of a packet filter stops or changes the packet.
    Rule {
        /// Whether it is the outer packet.
        outer: bool,
        /// The hook, as nft calls it.
        hook: &'static str,
        /// What the rule does: `drops`, `rejects`, `shows` (to a program, which decides), `changes`, or `unknown`.
        does: &'static str,
        /// The rule, with table and chain.
        rule: String,
        /// What the rules on the way to it look at that is not known. If there is nothing of the kind, the packet surely meets it.
        depends_on: Vec<String>,
    },
    /// Rules of packet filters let the packet pass, but for those that other steps name.
    Rules {
        /// Whether it is the outer packet.
        outer: bool,
        /// The hooks, as nft calls them.
        hooks: Vec<&'static str>,
        /// Whether the packet was judged as one of a connection that the other side has answered. If not, as the first of one.
        established: bool,
    },
    /// A program was run.
    Program {
        /// Its name.
        program: &'static str,
        /// The interface that it is attached to.
        device: String,
        /// `carried`, `floor`, `foreign` or `dropped`.
        verdict: &'static str,
        /// Name of the outcome, as `METRICS` counts it.
        outcome: &'static str,
        /// Explanation of the outcome.
        help: &'static str,
    },
    /// A program is not attached where it belongs.
    Absent {
        /// Its name.
        program: &'static str,
        /// The interface.
        device: String,
    },
    /// The outer headers that a program has added.
    Outer(OuterHeaders),
    /// A route lookup.
    Route {
        /// The address looked up.
        destination: IpAddr,
        /// The outgoing interface.
        device: String,
        /// The interface's MTU in bytes.
        mtu: u32,
        /// The gateway; `None` if the destination is on the link.
        gateway: Option<IpAddr>,
    },
    /// A neighbour lookup.
    Neighbour {
        /// The neighbour's address.
        address: IpAddr,
        /// The interface on whose link it is.
        device: String,
        /// Its MAC, if it is known.
        mac: Option<Mac>,
        /// State of its entry, as `ip neigh` shows it; `absent` without an entry.
        state: &'static str,
    },
    /// A lookup in the FDB of a vxlan device.
    TunnelEnd {
        /// MAC of the VTEP looked up.
        mac: Mac,
        /// The vxlan device.
        device: String,
        /// Address of the node with this VTEP.
        node: Option<IpAddr>,
    },
}

/// What knows of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Translator {
    /// A proven flow.
    Flow,
    /// The connection tracker.
    ConnectionTracker,
    /// Rules of a packet filter.
    Rules,
    /// The kernel's load balancer.
    Ipvs,
}

/// What may become of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The address and port; `None` if the rule's target is not read.
    pub to: Option<String>,
    /// The rules that do it, in the order in which they are met.
    pub rules: Vec<String>,
}

/// What the programs know of a flow, by the addresses of the pod's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownFlow {
    /// The pod's address and port.
    pub pod: SocketAddr,
    /// Where the pod sends to: another pod, or a service.
    pub remote: SocketAddr,
    /// The pod behind a service.
    pub behind: Option<SocketAddr>,
    /// What the other end sees of the pod, if that is translated.
    pub seen_as: Option<SocketAddr>,
    /// The other end's node.
    pub peer: Option<IpAddr>,
    /// Packets from the pod: `proven`, `expired`, `changed` or `never`, as `flannel-agent flows` shows them.
    pub sent: &'static str,
    /// Packets to the pod.
    pub received: &'static str,
}

/// The lease that contains an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseHolder {
    /// The address.
    pub address: IpAddr,
    /// The leased subnet.
    #[serde(serialize_with = "as_text")]
    pub subnet: IpNet,
    /// The node's public address.
    pub public_ip: IpAddr,
    /// MAC of the node's vxlan device.
    pub vtep_mac: Mac,
    /// `subnet`, `direct` (a subnet reached without a tunnel), `own` (of this node), `node` (the address of a node itself)
    /// or `ended` (a lease that has ended lately).
    pub kind: &'static str,
}

/// The end of the packet's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum TraceEnd {
    /// It leaves this node.
    Leaves {
        /// The outgoing interface.
        device: String,
        /// The node it is encapsulated for in VXLAN; `None` if it leaves without a tunnel.
        node: Option<IpAddr>,
        /// What sends it.
        by: Carrier,
    },
    /// It reaches a pod of this node.
    Delivered {
        /// The interface of the pod.
        device: String,
        /// What delivers it.
        by: Carrier,
    },
    /// It is for this host itself.
    Local,
    /// The host gives it one of several addresses, and which is not known.
    Undecided {
        /// What to ask next.
        reason: String,
    },
    /// It goes no further.
    Lost {
        /// The reason, and what the host does about it.
        reason: String,
    },
}

/// What carries a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// A BPF program.
    Bpf,
    /// The kernel's own routing, bridge and vxlan device.
    Kernel,
}

impl TraceStep {
    /// Returns the step for a program's run at an interface.
    pub(super) fn ran(hook: Hook, device: &str, outcome: Outcome) -> Self {
        Self::Program {
            program: hook.program(),
            device: device.to_owned(),
            verdict: outcome.verdict().name(),
            outcome: outcome.name(),
            help: outcome.help(),
        }
    }

    pub(super) fn note(text: impl Into<String>) -> Self {
        Self::Note { text: text.into() }
    }
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
