//! The variants `limit` and `limit-flat`: `flannel-ebpf/examples/limit.rs` instead of the agent's programs.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader};
use flannel_tests::kernel_vxlan::DEVICE;
use flannel_tests::netns::NetNs;
use flannel_tests::pod::BRIDGE;
use flannel_tests::{Node, Pod};

use crate::workspace::{bpf_example, cargo_bpf};
use crate::{phase, setup};

/// The programs' name among the examples.
const EXAMPLE: &str = "limit";
const UPLINK: &str = "eth0";
const ETHER_IPV4: [u8; 2] = [0x08, 0x00];

/// Attached programs of one node, which end when it is dropped.
pub(super) struct Limit {
    netns: Arc<NetNs>,
    programs: Option<Ebpf>,
}

/// An interface, as the programs have to know it.
struct Interface {
    index: u32,
    mac: [u8; 6],
}

/// A node and its pod, as the programs have to know them.
struct End<'a> {
    node: &'a Node,
    pod: &'a Pod,
    uplink: Interface,
    vtep: Interface,
    bridge: Interface,
}

/// Builds the programs.
pub(super) fn build() -> Result<()> {
    let mut build = cargo_bpf(["build", "--example", EXAMPLE], &setup::bpf_toolchain()?)?;
    phase::run("build of the smallest programs", &mut build)
}

/// Attaches the programs to two nodes that the kernel's vxlan joins. With `flat`, this device receives aggregates.
pub(super) fn attach(nodes: [&Node; 2], pods: [&Pod; 2], flat: bool) -> Result<Vec<Limit>> {
    let object = bpf_example(EXAMPLE)?;
    let [first, second] = [End::new(nodes[0], pods[0])?, End::new(nodes[1], pods[1])?];
    Ok(vec![Limit::attach(&object, &first, &second, flat)?, Limit::attach(&object, &second, &first, flat)?])
}

impl Limit {
    fn attach(object: &Path, own: &End<'_>, other: &End<'_>, flat: bool) -> Result<Self> {
        let [pod, port] = own.pod_link()?;
        let ips = [own.node.ip(), other.node.ip()];
        let front = front([other.uplink.mac, own.uplink.mac], [other.vtep.mac, own.vtep.mac], ips);
        let (sum, remote) = (header_sum(ips), v4(other.pod.ip())?.octets());
        let mut delivery = [0; 16];
        delivery[..14].copy_from_slice(&ethernet([pod.mac, own.bridge.mac]));
        let mut loader = EbpfLoader::new();
        loader.override_global("FRONT", &front, true);
        loader.override_global("SUM", &sum, true);
        loader.override_global("UPLINK", &own.uplink.index, true);
        loader.override_global("REMOTE", &remote, true);
        loader.override_global("DELIVERY", &delivery, true);
        loader.override_global("PORT", &port.index, true);
        let programs = loader.load_file(object).context("read the smallest programs")?;
        let mut limit = Self { netns: Arc::clone(own.node.netns()), programs: Some(programs) };
        limit.attach_program("limit_pod", own.pod.port())?;
        limit.attach_program(if flat { "limit_uplink_flat" } else { "limit_uplink" }, UPLINK)?;
        Ok(limit)
    }

    fn attach_program(&mut self, name: &str, interface: &str) -> Result<()> {
        let Self { netns, programs } = self;
        let program = programs.as_mut().and_then(|programs| programs.program_mut(name));
        let program: &mut SchedClassifier = program.context("it is not in the object")?.try_into()?;
        let attach = || {
            program.load()?;
            // For kernels without tcx (before Linux 6.6). A failure shows in the next step.
            let _ = tc::qdisc_add_clsact(interface);
            program.attach(interface, TcAttachType::Ingress)?;
            anyhow::Ok(())
        };
        netns.run(attach).with_context(|| format!("attach {name} to {interface} of {}", netns.name()))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Filters of clsact are looked for in the thread's namespace.
        let programs = self.programs.take();
        let detached = self.netns.run(|| {
            drop(programs);
            Ok(())
        });
        if let Err(error) = detached {
            phase::error(&format!("{error:#}"));
        }
    }
}

impl<'a> End<'a> {
    fn new(node: &'a Node, pod: &'a Pod) -> Result<Self> {
        let interface = |name| Interface::read(node.netns(), name);
        let (uplink, vtep, bridge) = (interface(UPLINK)?, interface(DEVICE)?, interface(BRIDGE)?);
        Ok(Self { node, pod, uplink, vtep, bridge })
    }

    /// Returns the pod's interface and its port on the node.
    fn pod_link(&self) -> Result<[Interface; 2]> {
        Ok([Interface::read(self.pod.netns(), "eth0")?, Interface::read(self.node.netns(), self.pod.port())?])
    }
}

impl Interface {
    fn read(netns: &NetNs, name: &str) -> Result<Self> {
        let link = &netns.exec_json(&format!("ip -j link show dev {name}"))?[0];
        let index = link["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
        let mac = link["address"].as_str().and_then(parse_mac);
        index.zip(mac).map(|(index, mac)| Self { index, mac }).with_context(|| format!("read {name}"))
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<_> = text.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok()
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => bail!("the smallest programs know IPv4 only"),
    }
}

/// Returns an Ethernet header of IPv4 with these MACs: destination and source.
fn ethernet(macs: [[u8; 6]; 2]) -> [u8; 14] {
    let mut header = [0; 14];
    header[..12].copy_from_slice(macs.as_flattened());
    header[12..].copy_from_slice(&ETHER_IPV4);
    header
}

/// Returns outer Ethernet, IPv4, UDP and VXLAN (VNI 1), and the inner Ethernet header, with zeroes for lengths and checksum.
/// `outer` and `inner` are the MACs, `ips` the addresses of source and destination.
fn front(outer: [[u8; 6]; 2], inner: [[u8; 6]; 2], ips: [Ipv4Addr; 2]) -> [u8; 64] {
    /// From 40000 to 8472; no length, no checksum.
    const UDP: [u8; 8] = [0x9c, 0x40, 0x21, 0x18, 0, 0, 0, 0];
    const VXLAN: [u8; 8] = [0x08, 0, 0, 0, 0, 0, 1, 0];
    let parts: [&[u8]; 5] = [&ethernet(outer), &ip_header(ips), &UDP, &VXLAN, &ethernet(inner)];
    let mut front = [0; 64];
    front.iter_mut().zip(parts.concat()).for_each(|(to, byte)| *to = byte);
    front
}

/// Returns an IPv4 header for UDP without length and checksum.
fn ip_header([source, destination]: [Ipv4Addr; 2]) -> [u8; 20] {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.octets());
    header
}

/// Returns the sum of this header's 16-bit words (RFC 1071), not yet folded.
fn header_sum(ips: [Ipv4Addr; 2]) -> u32 {
    ip_header(ips).chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 64, 1), Ipv4Addr::new(255, 255, 255, 254)];

    #[test]
    fn the_front_is_vxlan_as_flannel_sends_it() {
        let front = front([[1; 6], [2; 6]], [[3; 6], [4; 6]], IPS);
        #[rustfmt::skip]
        let expected = [
            1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x00,
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 64, 1, 255, 255, 255, 254,
            0x9c, 0x40, 0x21, 0x18, 0, 0, 0, 0,
            0x08, 0, 0, 0, 0, 0, 1, 0,
            3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 0x08, 0x00,
        ];
        assert_eq!(front, expected);
    }

    /// What the program does with the sum and a packet's length makes the checksum.
    #[test]
    fn the_sum_makes_the_checksum_of_every_length() {
        for length in [36_u16, 128, 1500, u16::MAX] {
            let sum = header_sum(IPS) + u32::from(length);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16));
            let mut header = ip_header(IPS);
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
            assert_eq!(flannel_common::checksum::of(&header), 0, "length {length}");
        }
    }

    #[test]
    fn macs_are_read() {
        assert_eq!(parse_mac("2a:f1:a0:00:00:ff"), Some([0x2a, 0xf1, 0xa0, 0, 0, 0xff]));
        assert_eq!(parse_mac("2a:f1"), None);
    }
}
