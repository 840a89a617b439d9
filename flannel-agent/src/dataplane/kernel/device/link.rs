//! Links as the kernel reports them, reduced to what decides whether a vxlan device fits.

use std::net::IpAddr;
use std::pin::pin;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Error, Handle, LinkGetRequest};

use super::super::errno;
use super::DeviceSpec;
use crate::dataplane::entry::LinkState;
use crate::mac::Mac;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dataplane::kernel) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// None if it is not an Ethernet device.
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// If it is a vxlan device.
    pub(super) vxlan: Option<Vxlan>,
}

impl Link {
    /// What can change while it lives.
    pub(in crate::dataplane::kernel) const fn state(&self) -> LinkState {
        LinkState { up: self.up, mtu: self.mtu, mac: self.mac }
    }
}

/// The options of a vxlan device that are fixed when it is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vxlan {
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) uplink_index: u32,
    pub(super) local: Option<IpAddr>,
    pub(super) gbp: bool,
    pub(super) learning: bool,
    /// Of the outer UDP header over IPv4.
    pub(super) checksum: bool,
}

/// The interface of this name, if there is one.
pub(super) async fn by_name(handle: &Handle, name: &str) -> Result<Option<Link>> {
    get(handle.link().get().match_name(name)).await.with_context(|| format!("looking up interface {name}"))
}

/// The interface with this index, if there is one.
pub(super) async fn by_index(handle: &Handle, index: u32) -> Result<Option<Link>> {
    get(handle.link().get().match_index(index)).await.with_context(|| format!("looking up interface {index}"))
}

async fn get(request: LinkGetRequest) -> Result<Option<Link>, Error> {
    match pin!(request.execute()).try_next().await {
        Ok(link) => Ok(link.as_ref().map(read)),
        Err(error) if errno(&error) == libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

/// The vxlan device with this VNI and port over the same IP version; the kernel allows one of each.
pub(super) async fn rival_of(handle: &Handle, spec: &DeviceSpec) -> Result<Option<Link>> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await.context("listing interfaces")?;
    let is_rival = |link: &Link| link.vxlan.as_ref().is_some_and(|vxlan| vxlan.excludes(spec));
    Ok(links.iter().map(read).find(is_rival))
}

impl Vxlan {
    fn excludes(&self, spec: &DeviceSpec) -> bool {
        let over_ipv6 = self.local.is_some_and(|local| local.is_ipv6());
        (self.vni, self.port, over_ipv6) == (spec.vni, spec.port, spec.local.is_ipv6())
    }
}

pub(in crate::dataplane::kernel) fn read(message: &LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let name = String::new();
    let mut link = Link { index: message.header.index, name, mac: None, mtu: 0, up, vxlan: None };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => link.vxlan = infos.iter().find_map(vxlan),
            _ => {}
        }
    }
    link
}

fn vxlan(info: &LinkInfo) -> Option<Vxlan> {
    let LinkInfo::Data(InfoData::Vxlan(options)) = info else { return None };
    let mut vxlan = Vxlan::default();
    for option in options {
        match option {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Link(index) => vxlan.uplink_index = *index,
            InfoVxlan::Local(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Local6(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Gbp => vxlan.gbp = true,
            InfoVxlan::Learning(learning) => vxlan.learning = *learning,
            InfoVxlan::UDPCsum(checksum) => vxlan.checksum = *checksum,
            _ => {}
        }
    }
    Some(vxlan)
}
