//! One interface, as far as packets on their way care.

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use crate::mac::Mac;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The longest IP packet in bytes that it takes.
    pub mtu: u32,
    /// Its MAC, if it has one.
    pub mac: Option<Mac>,
    /// What it is.
    pub kind: Kind,
    /// The index of the bridge that it is a port of, if any.
    pub bridge: Option<u32>,
}

/// What an interface is, as far as it matters for where its frames go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It wraps frames and sends them to the node that its FDB says.
    Vxlan,
    /// It sends frames out of the port that its FDB says.
    Bridge,
    /// Frames leave by it.
    #[default]
    Other,
}

impl Interface {
    /// The interface that the kernel's message tells of.
    pub(super) fn of(link: &LinkMessage) -> Self {
        let mut interface = Self { index: link.header.index, ..Self::default() };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::Address(bytes) => interface.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Controller(index) => interface.bridge = Some(*index),
                LinkAttribute::LinkInfo(infos) => interface.kind = kind(infos),
                _ => {}
            }
        }
        interface
    }
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Vxlan) => Kind::Vxlan,
        Some(InfoKind::Bridge) => Kind::Bridge,
        _ => Kind::Other,
    }
}
