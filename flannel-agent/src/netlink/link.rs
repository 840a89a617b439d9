//! Interfaces.

use std::net::IpAddr;
use std::pin::pin;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::{Error, Handle, LinkGetRequest};

use super::errno;
use crate::mac::Mac;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The length in bytes of the longest IP packet that it sends.
    pub mtu: u32,
    /// Its MAC; `None` if it is not an Ethernet device.
    pub mac: Option<Mac>,
    /// Whether frames have an Ethernet header here (not so on a TUN device or a WireGuard interface).
    pub ethernet: bool,
    /// Whether it is up.
    pub up: bool,
    /// What it is.
    pub kind: LinkKind,
    /// The index of the bridge, or other controller, that it is a port of.
    pub controller: Option<u32>,
    /// The number of the network namespace of its other end, if that is another one.
    pub peer_namespace: Option<i32>,
    /// The index of its other end, or of the interface that it is made on.
    pub peer: Option<u32>,
    /// Where an XDP program sees what it receives.
    pub xdp: Option<Xdp>,
    /// The ID of that program, if there is one alone.
    pub xdp_program: Option<u32>,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xdp {
    /// In the driver or the hardware, and perhaps in the stack as well.
    Driver,
    /// In the stack only.
    Stack,
}

/// The kind of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// A vxlan device.
    Vxlan(VxlanOptions),
    /// A bridge.
    Bridge,
    /// One end of a pair of virtual Ethernet devices.
    Veth,
    /// A TUN or TAP device.
    Tun,
    /// Any other kind.
    #[default]
    Other,
}

/// The options of a vxlan device, which are fixed when it is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VxlanOptions {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Index of the interface that carries the outer packets.
    pub uplink_index: u32,
    /// Source address of the outer packets.
    pub local: Option<IpAddr>,
    /// Whether it carries the group policy extension.
    pub gbp: bool,
    /// Whether it learns FDB entries from traffic.
    pub learning: bool,
}

impl Link {
    /// Reads a message about an interface.
    #[must_use]
    pub fn read(message: &LinkMessage) -> Self {
        let header = &message.header;
        let mut link = Self {
            index: header.index,
            ethernet: matches!(header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
            up: header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkNetNsId(namespace) => link.peer_namespace = Some(*namespace),
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::Xdp(options) => {
                    link.xdp = xdp(options);
                    link.xdp_program = options.iter().find_map(|option| match option {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
                _ => {}
            }
        }
        link
    }

    /// Whether flannel makes such devices: `flannel.<VNI>` or `flannel-v6.<VNI>` of kind vxlan, or `flannel0` of kind tun
    /// (udp backend). The agent also makes [`headroom_devices`].
    #[must_use]
    pub fn is_flannel_device(&self) -> bool {
        let vni = self.name.strip_prefix("flannel.").or_else(|| self.name.strip_prefix("flannel-v6."));
        let is_vni = |vni: &str| vni.parse::<u32>().is_ok();
        let is_for_headroom = |rest: &str| {
            let vni = rest.get(1..).and_then(|digits| u32::from_str_radix(digits, 16).ok());
            vni.is_some_and(|vni| headroom_devices(vni).contains(&self.name))
        };
        match self.kind {
            LinkKind::Vxlan(_) => vni.is_some_and(|rest| is_vni(rest) || is_for_headroom(rest)),
            LinkKind::Tun => self.name == "flannel0",
            _ => false,
        }
    }

    /// Returns its options if it is a vxlan device.
    #[must_use]
    pub const fn vxlan(&self) -> Option<&VxlanOptions> {
        match &self.kind {
            LinkKind::Vxlan(options) => Some(options),
            _ => None,
        }
    }
}

fn kind(infos: &[LinkInfo]) -> LinkKind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Vxlan) => LinkKind::Vxlan(vxlan_options(infos)),
        Some(InfoKind::Bridge) => LinkKind::Bridge,
        Some(InfoKind::Veth) => LinkKind::Veth,
        Some(InfoKind::Tun) => LinkKind::Tun,
        _ => LinkKind::Other,
    }
}

fn xdp(options: &[LinkXdp]) -> Option<Xdp> {
    let attached = options.iter().find_map(|option| match option {
        LinkXdp::Attached(attached) => Some(attached),
        _ => None,
    })?;
    match attached {
        XdpAttached::None => None,
        XdpAttached::SocketBuffer => Some(Xdp::Stack),
        _ => Some(Xdp::Driver),
    }
}

fn vxlan_options(infos: &[LinkInfo]) -> VxlanOptions {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.as_slice()),
        _ => None,
    });
    let mut options = VxlanOptions::default();
    for option in data.unwrap_or_default() {
        match option {
            InfoVxlan::Id(vni) => options.vni = *vni,
            InfoVxlan::Port(port) => options.port = *port,
            InfoVxlan::Link(index) => options.uplink_index = *index,
            InfoVxlan::Local(local) => options.local = Some((*local).into()),
            InfoVxlan::Local6(local) => options.local = Some((*local).into()),
            InfoVxlan::Gbp => options.gbp = true,
            InfoVxlan::Learning(learning) => options.learning = *learning,
            _ => {}
        }
    }
    options
}

/// Returns the names of two devices of kind vxlan that are there for a moment, for the pods' bridge: the lower one and the bridge's port.
/// At most 15 bytes, so the VNI has hexadecimal digits.
#[must_use]
pub fn headroom_devices(vni: u32) -> [String; 2] {
    ['l', 'p'].map(|kind| format!("flannel.{kind}{vni:06x}"))
}

/// Returns all interfaces.
///
/// # Errors
/// The dump fails.
pub async fn list(handle: &Handle) -> Result<Vec<Link>, Error> {
    handle.link().get().execute().map_ok(|link| Link::read(&link)).try_collect().await
}

/// Returns the interface of this name; `None` if there is none.
///
/// # Errors
/// The kernel does not answer.
pub async fn by_name(handle: &Handle, name: &str) -> Result<Option<Link>, Error> {
    get(handle.link().get().match_name(name)).await
}

/// Returns the interface with this index; `None` if there is none.
///
/// # Errors
/// The kernel does not answer.
pub async fn by_index(handle: &Handle, index: u32) -> Result<Option<Link>, Error> {
    get(handle.link().get().match_index(index)).await
}

/// Returns the interface with this index in the namespace with this number; `None` if there is none (Linux 4.17).
///
/// # Errors
/// The kernel does not answer, or the process lacks `CAP_NET_ADMIN` there.
pub async fn by_index_in(handle: &Handle, namespace: i32, index: u32) -> Result<Option<Link>, Error> {
    let mut request = handle.link().get().match_index(index);
    request.message_mut().attributes.push(LinkAttribute::IfNetnsId(namespace));
    get(request).await
}

/// Returns all interfaces in the namespace with this number (Linux 4.18).
///
/// # Errors
/// The kernel does not answer, or the process lacks `CAP_NET_ADMIN` there.
pub async fn list_in(handle: &Handle, namespace: i32) -> Result<Vec<Link>, Error> {
    let mut request = handle.link().get();
    request.message_mut().attributes.push(LinkAttribute::IfNetnsId(namespace));
    request.execute().map_ok(|link| Link::read(&link)).try_collect().await
}

/// Removes the interface with this index in the namespace with this number (Linux 4.18).
///
/// # Errors
/// The kernel refuses.
pub async fn remove_in(handle: &Handle, namespace: i32, index: u32) -> Result<(), Error> {
    let mut request = handle.link().del(index);
    request.message_mut().attributes.push(LinkAttribute::IfNetnsId(namespace));
    request.execute().await
}

async fn get(mut request: LinkGetRequest) -> Result<Option<Link>, Error> {
    // Counters are most of an answer. Known since Linux 4.4, and skipped since then for IPv6, which has the most.
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    request.message_mut().attributes.push(mask);
    match pin!(request.execute()).try_next().await {
        Ok(link) => Ok(link.as_ref().map(Link::read)),
        Err(error) if errno(&error) == libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flannel_device_has_the_name_and_the_kind_that_flannel_uses() {
        for (name, kind, expected) in [
            ("flannel.1", LinkKind::Vxlan(VxlanOptions::default()), true),
            ("flannel.4096", LinkKind::Vxlan(VxlanOptions::default()), true),
            ("flannel-v6.1", LinkKind::Vxlan(VxlanOptions::default()), true),
            ("flannel.l000001", LinkKind::Vxlan(VxlanOptions::default()), true),
            ("flannel.pffffff", LinkKind::Vxlan(VxlanOptions::default()), true),
            ("flannel.p1", LinkKind::Vxlan(VxlanOptions::default()), false),
            ("flannel.p000001", LinkKind::Other, false),
            ("flannel0", LinkKind::Tun, true),
            ("flannel.1", LinkKind::Other, false),
            ("flannel0", LinkKind::Vxlan(VxlanOptions::default()), false),
            ("flannel1", LinkKind::Tun, false),
            ("flannel.", LinkKind::Vxlan(VxlanOptions::default()), false),
            ("flannel.mine", LinkKind::Vxlan(VxlanOptions::default()), false),
            ("vxlan.1", LinkKind::Vxlan(VxlanOptions::default()), false),
        ] {
            let link = Link { name: name.to_owned(), kind, ..Link::default() };
            assert_eq!(link.is_flannel_device(), expected, "{link:?}");
        }
    }
}
