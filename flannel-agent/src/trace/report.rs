//! The answer: what happens to the packet, step by step, for people and for programs.

mod text;

use std::fmt;
use std::net::IpAddr;

use flannel_common::outcome::{Hook, Outcome, Verdict};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::outer::Outer;
use super::packet::Packet;
use crate::mac::Mac;

/// Where a packet would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The packet.
    pub packet: Packet,
    /// The VNI of the programs that were asked; none: the kernel alone was.
    pub vni: Option<u32>,
    /// What happens to it, in order.
    pub steps: Vec<Step>,
    /// What becomes of it.
    pub end: End,
}

/// One thing on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Something to know before the rest is read.
    Note {
        /// A sentence.
        text: String,
    },
    /// The lease of the node at the other end.
    Lease(Holder),
    /// The pod of this node.
    Pod {
        /// Its address.
        address: IpAddr,
        /// Its MAC.
        mac: Mac,
        /// Its port on the bridge.
        device: String,
    },
    /// A program was run.
    Program {
        /// Its name.
        program: &'static str,
        /// The interface at whose hook it runs.
        device: String,
        /// `carried`, `floor`, `foreign` or `dropped`.
        verdict: &'static str,
        /// How the run ended, as `METRICS` counts it.
        outcome: &'static str,
        /// What that means.
        help: &'static str,
    },
    /// A program is not attached where it belongs.
    Absent {
        /// Its name.
        program: &'static str,
        /// The interface.
        device: String,
    },
    /// The outer headers that a program has put on.
    Outer(Outer),
    /// The host's routing tables were asked.
    Route {
        /// For the way to this address.
        destination: IpAddr,
        /// The interface it leaves by.
        device: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The router that it goes to; none: the destination itself.
        gateway: Option<IpAddr>,
    },
    /// A neighbour was looked up.
    Neighbour {
        /// Its address.
        address: IpAddr,
        /// The interface it is behind.
        device: String,
        /// Its MAC, if it is known.
        mac: Option<Mac>,
        /// Its entry's state, as `ip neigh` shows it; `absent` without an entry.
        state: &'static str,
    },
    /// The FDB of a vxlan device was looked up.
    TunnelEnd {
        /// For this VTEP.
        mac: Mac,
        /// On this device.
        device: String,
        /// The node that has it.
        node: Option<IpAddr>,
    },
}

/// A node's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// An address in it.
    pub address: IpAddr,
    /// What is leased.
    #[serde(serialize_with = "as_text")]
    pub subnet: IpNet,
    /// The node's public address.
    pub public_ip: IpAddr,
    /// MAC of the node's vxlan device.
    pub vtep_mac: Mac,
    /// `subnet`, or `direct`: one that is reached without a tunnel, or `own`: ours, or `node`: the node's own address, or
    /// `ended`: lately, and not any more.
    pub kind: &'static str,
}

/// What becomes of the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// It leaves this node.
    Leaves {
        /// By this interface.
        device: String,
        /// In VXLAN, to this node; none: as it is.
        node: Option<IpAddr>,
        /// Who does it.
        by: Carrier,
    },
    /// It is handed to a pod of this node.
    Delivered {
        /// By this interface.
        device: String,
        /// Who does it.
        by: Carrier,
    },
    /// It is for this host itself.
    Local,
    /// It goes no further.
    Lost {
        /// Why, and what is done about it.
        reason: String,
    },
}

/// Who carries a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// A BPF program.
    Bpf,
    /// The kernel's own routing, bridge and vxlan device.
    Kernel,
}

impl Step {
    /// What a program did at an interface.
    pub(super) fn ran(hook: Hook, device: &str, outcome: Outcome) -> Self {
        Self::Program {
            program: hook.program(),
            device: device.to_owned(),
            verdict: name_of(outcome.verdict()),
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

const fn name_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Carried => "carried",
        Verdict::Floor => "floor",
        Verdict::Foreign => "foreign",
        Verdict::Dropped => "dropped",
    }
}
