//! What others have put on the way of pods' packets, and what is left to the kernel so that it sees all of them. Pure.
//!
//! A packet that takes the shortcut passes by the pod's bridge port (to the pod), XDP in the driver of the pod's end, the
//! bridge and the vxlan device. The programs that wrap and unwrap packets come before other programs of the same hook, and
//! before the queue of the vxlan device.

mod underlay;

use std::fmt;

use flannel_common::node::{FLOOR_UNWRAPS, FLOOR_WRAPS};

use crate::mac::Mac;
pub use underlay::{MarkedWay, Outer, Underlay};

/// What an interface is for the packets of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A port of the pods' bridge.
    Port,
    /// The pods' bridge.
    Bridge,
    /// A vxlan device of this node.
    Overlay,
    /// The interface that carries outer packets.
    Uplink {
        /// Whether XDP unwraps packets there, before the programs of TC.
        xdp: bool,
    },
}

/// A program or filter of a hook of TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// One of this agent, or of an agent of another network.
    Ours,
    /// One of others, attached by tcx.
    Tcx,
    /// A filter of others.
    Filter,
}

/// What the other end of a port says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    /// There is none in another network namespace.
    #[default]
    None,
    /// It has no XDP program in its driver, and this MAC.
    Plain(Mac),
    /// It has one.
    Xdp,
    /// The kernel does not tell: why.
    Unknown(String),
}

/// An interface on the way of pods' packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What it is for.
    pub role: Role,
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kinds of its qdiscs.
    pub qdiscs: Vec<String>,
    /// What sees received packets, in this order.
    pub ingress: Vec<Program>,
    /// What sees sent packets, in this order.
    pub egress: Vec<Program>,
    /// Whether XDP sees received packets.
    pub xdp: bool,
    /// The other end, if it is a port.
    pub peer: Peer,
}

/// A port of the pods' bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// The MAC of the pod's end, if flows may skip the host stack here, or why they may not.
    pub shortcut: Result<Mac, Thing>,
    /// Whether the agent's programs are attached, in both directions.
    pub is_attached: bool,
}

/// Why packets must not pass an interface by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    /// It is not a veth into another network namespace: BPF cannot deliver to its other end.
    NoPeer,
    /// A qdisc of this kind shapes or filters its traffic (the bandwidth CNI plugin, for example).
    Qdisc(String),
    /// A program of others.
    Program(Program, Direction),
    /// An XDP program.
    Xdp,
    /// An XDP program in the driver of the pod's end.
    PeerXdp,
    /// The pod's end cannot be read: why.
    UnknownPeer(String),
}

/// A direction of packets at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Received packets.
    Ingress,
    /// Sent packets.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPeer => f.write_str("it is not a veth into another network namespace"),
            Self::Qdisc(kind) => write!(f, "it has a {kind} qdisc"),
            Self::Program(Program::Filter, direction) => {
                write!(f, "it has a TC filter of others on {direction}")
            }
            Self::Program(_, direction) => write!(f, "it has a tcx program of others on {direction}"),
            Self::Xdp => f.write_str("it has an XDP program of others"),
            Self::PeerXdp => f.write_str("its other end, in the pod, has an XDP program"),
            Self::UnknownPeer(why) => {
                write!(f, "whether its other end has an XDP program is not known: {why}")
            }
        }
    }
}

/// What a reason closes. The kernel does the closed work instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closes {
    /// Flows do not skip the host stack.
    pub shortcut: bool,
    /// Programs do not wrap packets. Those over IPv6 they never wrap.
    pub wrapping: bool,
    /// Programs do not unwrap packets.
    pub unwrapping: bool,
}

impl Closes {
    /// Flows that skip the host stack.
    pub const SHORTCUT: Self = Self { shortcut: true, wrapping: false, unwrapping: false };
    /// Packets that BPF wraps, and with them the shortcut.
    pub const WRAPPING: Self = Self { wrapping: true, ..Self::SHORTCUT };
    /// Packets that BPF unwraps.
    pub const UNWRAPPING: Self = Self { shortcut: false, wrapping: false, unwrapping: true };

    /// Returns what either closes.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            shortcut: self.shortcut || other.shortcut,
            wrapping: self.wrapping || other.wrapping,
            unwrapping: self.unwrapping || other.unwrapping,
        }
    }

    /// Returns what is left to the floor, for `NodeConfig::floor`.
    #[must_use]
    pub const fn floor(self) -> u32 {
        let wraps = if self.wrapping { FLOOR_WRAPS } else { 0 };
        let unwraps = if self.unwrapping { FLOOR_UNWRAPS } else { 0 };
        wraps | unwraps
    }
}

impl fmt::Display for Closes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.shortcut, "all packets of pods go through the host stack"),
            (self.wrapping, "the kernel's vxlan device wraps them"),
            (self.unwrapping, "the kernel's vxlan device unwraps packets"),
        ];
        let parts: Vec<_> =
            parts.into_iter().filter_map(|(is_closed, part)| is_closed.then_some(part)).collect();
        f.write_str(&parts.join(", and "))
    }
}

/// A reason to leave work to the kernel on the whole node. Two are the same if they read the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is there, as an operator reads it.
    pub what: String,
    /// What is left to the kernel.
    pub closes: Closes,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, closes } = self;
        write!(f, "{closes}: {what}")
    }
}

/// Returns why packets of the whole node must not pass these interfaces by: one reason for each interface.
#[must_use]
pub fn obstacles(interfaces: &[Interface]) -> Vec<Obstacle> {
    interfaces.iter().filter_map(obstacle).collect()
}

fn obstacle(interface: &Interface) -> Option<Obstacle> {
    let (thing, closes) = match interface.role {
        Role::Port => return None,
        Role::Bridge => (interface.first_thing()?, Closes::SHORTCUT),
        Role::Overlay => match interface.thing_for_sent() {
            Some(thing) => (thing, Closes::WRAPPING),
            None => (interface.first_thing()?, Closes::SHORTCUT),
        },
        Role::Uplink { xdp } => (interface.thing_behind_ours(xdp)?, Closes::UNWRAPPING),
    };
    Some(Obstacle { what: format!("{}: {thing}", interface.name), closes })
}

/// Returns the ports of the pods' bridge among these interfaces.
#[must_use]
pub fn ports(interfaces: &[Interface]) -> Vec<PodPort> {
    let ports = interfaces.iter().filter(|interface| interface.role == Role::Port);
    ports
        .map(|port| PodPort {
            index: port.index,
            name: port.name.clone(),
            shortcut: port.shortcut(),
            is_attached: [&port.ingress, &port.egress].iter().all(|hook| hook.contains(&Program::Ours)),
        })
        .collect()
}

impl PodPort {
    /// Whether flows may skip the host stack here.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.shortcut.is_ok()
    }
}

impl Interface {
    /// Returns the MAC of the other end, if flows may skip the host stack at this port. An XDP program on it has seen a packet before.
    fn shortcut(&self) -> Result<Mac, Thing> {
        let mac = match &self.peer {
            Peer::Plain(mac) => *mac,
            Peer::None => return Err(Thing::NoPeer),
            Peer::Xdp => return Err(Thing::PeerXdp),
            Peer::Unknown(why) => return Err(Thing::UnknownPeer(why.clone())),
        };
        let thing = self.thing_for_sent().or_else(|| self.foreign(Direction::Ingress));
        thing.map_or(Ok(mac), Err)
    }

    fn first_thing(&self) -> Option<Thing> {
        let xdp = self.xdp.then_some(Thing::Xdp);
        self.thing_for_sent().or_else(|| self.foreign(Direction::Ingress)).or(xdp)
    }

    /// Returns what sees or shapes sent packets.
    fn thing_for_sent(&self) -> Option<Thing> {
        // clsact holds programs and shapes nothing.
        let shapes = |kind: &&String| !matches!(kind.as_str(), "noqueue" | "clsact");
        let qdisc = self.qdiscs.iter().find(shapes).map(|kind| Thing::Qdisc(kind.clone()));
        qdisc.or_else(|| self.foreign(Direction::Egress))
    }

    fn foreign(&self, direction: Direction) -> Option<Thing> {
        let programs = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        programs
            .iter()
            .find(|program| **program != Program::Ours)
            .map(|found| Thing::Program(*found, direction))
    }

    /// Returns what does not see a received packet that our programs unwrap, and with `xdp` also what sees it only after.
    fn thing_behind_ours(&self, xdp: bool) -> Option<Thing> {
        let ours = self.ingress.iter().position(|program| *program == Program::Ours)?;
        let unseen = if xdp { &self.ingress[..] } else { &self.ingress[ours..] };
        let found = unseen.iter().find(|program| **program != Program::Ours)?;
        Some(Thing::Program(*found, Direction::Ingress))
    }
}

#[cfg(test)]
mod tests;
