//! The vxlan device: created, adopted, or replaced by a new one with the same MAC.

mod strayed;

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, ensure};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};
use tracing::{debug, info, warn};

use super::{ipv6, solicit};
use crate::mac::Mac;
use crate::netlink::errno;
use crate::netlink::link::{self, Link, VxlanOptions};
use crate::random;

/// The desired properties of the vxlan device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// `flannel.<VNI>`, or `flannel-v6.<VNI>` for an IPv6 underlay; at most 15 bytes.
    pub name: String,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of all nodes, host byte order.
    pub port: u16,
    /// Index of the interface that carries the encapsulated packets.
    pub uplink_index: u32,
    /// Source address of the encapsulated packets.
    pub local: IpAddr,
    /// MTU of the overlay in bytes: the uplink's less the encapsulation (50 over IPv4, 70 over IPv6).
    pub mtu: u32,
    /// Whether packets carry marks (group policy extension).
    pub gbp: bool,
    /// Whether it learns FDB entries from received packets.
    pub learning: bool,
    /// The MAC that peers know. `None`: an existing device keeps its MAC, and a new one gets a random one.
    pub mac: Option<Mac>,
}

/// An existing vxlan device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Its MAC, which the lease tells peers.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
}

/// See [`super::Kernel::ensure_device`].
pub(super) async fn ensure(handle: &Handle, spec: &DeviceSpec) -> Result<Device> {
    let found = by_name(handle, &spec.name).await?;
    let mac = spec.mac.or(found.as_ref().and_then(|link| link.mac)).map_or_else(random_mac, Ok)?;
    let link = match found {
        Some(link) => adopt_or_replace(handle, spec, mac, link).await?,
        None => create(handle, spec, mac).await?,
    };
    if spec.local.is_ipv6() {
        ipv6::enable(&spec.name)?;
    }
    ipv6::ignore_router_advertisements(&spec.name);
    solicit::ask_user_space(handle, &spec.name, link.index).await;
    let link = bring_up(handle, spec, mac, link).await?;
    ensure!(
        link.mac == Some(mac),
        "{} has MAC {:?} although {mac} was set: {UDEV_HINT}",
        spec.name,
        link.mac
    );
    Ok(Device { index: link.index, mac, mtu: link.mtu })
}

/// Fails if the device does not exist any more. A dump does not: rtnetlink drops the error at its end.
pub(super) async fn expect(handle: &Handle, device: &Device) -> Result<()> {
    let found = link::by_index(handle, device.index).await;
    let found = found.with_context(|| format!("looking up interface {}", device.index))?;
    found
        .map(drop)
        .with_context(|| format!("the vxlan device (index {}) does not exist any more", device.index))
}

/// See flannel issue 1795.
const UDEV_HINT: &str = "is another program changing it, such as systemd-udevd with MACAddressPolicy=persistent? \
                         A .link file with MACAddressPolicy=none for flannel* stops that";

async fn adopt_or_replace(handle: &Handle, spec: &DeviceSpec, mac: Mac, link: Link) -> Result<Link> {
    let Some(difference) = difference(spec, &link) else {
        debug!(device = spec.name, %mac, "the existing vxlan device fits");
        return Ok(link);
    };
    warn!(device = spec.name, difference, %mac, "the existing device does not fit; replacing it by a new one with its MAC");
    let deleted = handle.link().del(link.index).execute().await;
    deleted.with_context(|| format!("deleting {}, which does not fit: {difference}", spec.name))?;
    create(handle, spec, mac).await
}

/// Lists the wrong properties that cannot be changed after creation. Outer UDP checksums, which flanneld's device has
/// and a new one has not, are not wrong: packets would be lost if a device were replaced for them.
fn difference(spec: &DeviceSpec, link: &Link) -> Option<String> {
    let Some(vxlan) = link.vxlan() else { return Some("it is not a vxlan device".to_owned()) };
    let VxlanOptions { vni, port, uplink_index, local, gbp, learning } = vxlan;
    let local = local.map_or_else(|| "none".to_owned(), |ip| ip.to_string());
    let options = [
        ("VNI", vni.to_string(), spec.vni.to_string()),
        ("port", port.to_string(), spec.port.to_string()),
        ("uplink index", uplink_index.to_string(), spec.uplink_index.to_string()),
        ("local address", local, spec.local.to_string()),
        ("GBP", gbp.to_string(), spec.gbp.to_string()),
        ("learning", learning.to_string(), spec.learning.to_string()),
    ];
    let wrong = options.into_iter().filter(|(_, is, should)| is != should);
    let wrong: Vec<_> = wrong.map(|(what, is, should)| format!("{what} {is} instead of {should}")).collect();
    (!wrong.is_empty()).then(|| wrong.join(", "))
}

async fn create(handle: &Handle, spec: &DeviceSpec, mac: Mac) -> Result<Link> {
    let add = || handle.link().add(message(spec, mac)).execute();
    let mut added = add().await;
    if is_taken(&added) {
        if let Some(link) = strayed::named_back(handle, spec, mac).await? {
            return Ok(link);
        }
        if strayed::remove_elsewhere(handle, spec, mac).await? {
            added = add().await;
        }
    }
    if is_taken(&added) {
        return Err(taken(handle, spec).await);
    }
    added.with_context(|| format!("creating vxlan device {}", spec.name))?;
    info!(device = spec.name, vni = spec.vni, port = spec.port, %mac, "created the vxlan device");
    by_name(handle, &spec.name)
        .await?
        .with_context(|| format!("{} was deleted after its creation", spec.name))
}

/// Returns whether a device has VNI and port already.
fn is_taken(added: &Result<(), rtnetlink::Error>) -> bool {
    added.as_ref().is_err_and(|error| errno(error) == libc::EEXIST)
}

/// Returns the message that creates the device as flanneld does. The outer UDP checksum stays zero: offloads
/// have corrupted other ones (flannel issue 1279).
fn message(spec: &DeviceSpec, mac: Mac) -> LinkMessage {
    let vxlan = LinkVxlan::new(&spec.name, spec.vni)
        .dev(spec.uplink_index)
        .port(spec.port)
        .learning(spec.learning)
        .udp_csum(false)
        // The kernel asks user space which node has a VTEP MAC that is not in the FDB.
        .l2miss(true)
        .address(mac.0.to_vec())
        .mtu(spec.mtu);
    let vxlan = match spec.local {
        IpAddr::V4(local) => vxlan.local(local),
        IpAddr::V6(local) => vxlan.local6(local),
    };
    if spec.gbp { vxlan.gbp().build() } else { vxlan.build() }
}

/// Explains EEXIST. No device has this name, so VNI and port are in use.
async fn taken(handle: &Handle, spec: &DeviceSpec) -> anyhow::Error {
    let DeviceSpec { name, vni, port, .. } = spec;
    let rival = rival_of(handle, spec).await.ok().flatten();
    let rival = rival.map_or_else(|| "another device".to_owned(), |link| link.name);
    anyhow!(
        "creating vxlan device {name}: {rival} already has VNI {vni} on UDP port {port}. Remove it \
         (`ip link del {rival}`) if nothing needs it, or give flannel another VNI or Port in its Backend config"
    )
}

async fn by_name(handle: &Handle, name: &str) -> Result<Option<Link>> {
    link::by_name(handle, name).await.with_context(|| format!("looking up interface {name}"))
}

/// Returns the vxlan device with this VNI and port over the same IP version; the kernel allows one of each.
async fn rival_of(handle: &Handle, spec: &DeviceSpec) -> Result<Option<Link>, rtnetlink::Error> {
    let is_rival = |options: &VxlanOptions| {
        let over_ipv6 = options.local.is_some_and(|local| local.is_ipv6());
        (options.vni, options.port, over_ipv6) == (spec.vni, spec.port, spec.local.is_ipv6())
    };
    let links = link::list(handle).await?;
    Ok(links.into_iter().find(|link| link.vxlan().is_some_and(is_rival)))
}

/// Sets what can be changed after creation, unless it is right already.
async fn bring_up(handle: &Handle, spec: &DeviceSpec, mac: Mac, link: Link) -> Result<Link> {
    if link.up && link.mtu == spec.mtu && link.mac == Some(mac) {
        return Ok(link);
    }
    let change = LinkUnspec::new_with_index(link.index).mtu(spec.mtu);
    let change = change.address(mac.0.to_vec()).up().build();
    handle.link().change(change).execute().await.map_err(|error| not_up(spec, error))?;
    by_name(handle, &spec.name).await?.with_context(|| format!("{} was deleted", spec.name))
}

fn not_up(spec: &DeviceSpec, error: rtnetlink::Error) -> anyhow::Error {
    let DeviceSpec { name, mtu, port, .. } = spec;
    let context = match errno(&error) {
        libc::EADDRINUSE => format!(
            "setting {name} up: UDP port {port} is taken, by another program (`ss -ulnp`) or by a vxlan device \
             with other options such as GBP (`ip -d link show type vxlan`). Stop it or choose another Port"
        ),
        libc::EINVAL => {
            format!("setting {name} up with MTU {mtu} (does it exceed the uplink's less the encapsulation?)")
        }
        _ => format!("setting {name} up with MTU {mtu}"),
    };
    anyhow::Error::new(error).context(context)
}

/// Returns a random MAC, locally administered and unicast.
fn random_mac() -> Result<Mac> {
    let mut bytes: [u8; 6] = random::bytes().context("making a random MAC")?;
    bytes[0] = bytes[0] & !1 | 2;
    Ok(Mac(bytes))
}

#[cfg(test)]
mod tests;
