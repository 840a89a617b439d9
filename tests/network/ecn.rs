//! ECN and TTL: a node with BPF treats packets as a node with the kernel's vxlan device alone does.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{EtherType, IpNumber, SlicedPacket};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::capture::CapturedFrame;
use flannel_tests::traffic::send_frame;
use flannel_tests::{Capture, Node, TestResult, Topology};
use nix::sys::socket::{setsockopt, sockopt};

use super::forged::ipv4_of;
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{NETWORK, Overlay, with_xdp};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

const SERVICE: u16 = 4000;
/// The code point "congestion experienced".
const CE: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const DSCP: u8 = 46;
const TTL: u8 = 17;
/// How many of the sixteen combinations arrive.
const ARRIVING: usize = 15;

/// Starts a node with BPF, one without, and a third that sends to both, with this XDP mode.
fn overlay(xdp: &str) -> Result<Overlay> {
    let flags = ["--dataplane=bpf", "--dataplane=netlink", "--dataplane=bpf"];
    let network = with_xdp(NETWORK, xdp);
    let overlay = Overlay::start_in(&network, Topology::segment(3), &flags, 1, |agent| agent)?;
    inspect::wait_plugged(&overlay.nodes()[0], &overlay.pods[0][0])?;
    Ok(overlay)
}

/// Returns all combinations of outer and inner code point.
fn combinations() -> impl Iterator<Item = (u8, u8)> {
    (0..4).flat_map(|outer| (0..4).map(move |inner| (outer, inner)))
}

/// Sends VXLAN packets made by the test from the third node to a pod of another node.
struct VxlanSender<'a> {
    from: &'a Node,
    to: &'a Node,
    source: Ipv4Addr,
    pod: Ipv4Addr,
    /// Ethernet headers on the vxlan device and on the uplink.
    inside: MacPair,
    outside: MacPair,
}

/// Destination and source MAC.
struct MacPair([u8; 6], [u8; 6]);

impl MacPair {
    fn of(interface: &str, to: &Node, from: &Node) -> Result<Self> {
        let mac = |node| Ok::<_, anyhow::Error>(inspect::link(node, interface)?.mac.parse::<Mac>()?.0);
        Ok(Self(mac(to)?, mac(from)?))
    }

    fn frame(&self, packet: &Ipv4) -> Vec<u8> {
        frame(self.0, self.1, EtherType::IPV4, &packet.bytes())
    }
}

impl<'a> VxlanSender<'a> {
    fn new(overlay: &'a Overlay, to: usize) -> Result<Self> {
        let [source, pod] = [ipv4_of(overlay, 2)?, ipv4_of(overlay, to)?];
        let [from, to] = [2, to].map(|node| &overlay.nodes()[node]);
        let [inside, outside] = [MacPair::of(DEVICE, to, from)?, MacPair::of(UPLINK, to, from)?];
        Ok(Self { from, to, source, pod, inside, outside })
    }

    /// Sends a datagram with these code points. Its source port makes it a flow of its own. It has no payload, so that
    /// generic XDP strips it, too.
    fn send(&self, outer: u8, inner: u8, source: [u8; 2]) -> Result<()> {
        let datagram = udp(u16::from_be_bytes(source), SERVICE, &[]);
        let packet = ipv4(self.source, self.pod, IpNumber::UDP, datagram);
        let inside = vxlan(8, 1, &self.inside.frame(&packet.tos(DSCP, inner).ttl(TTL)));
        let outside = ipv4(self.from.ip(), self.to.ip(), IpNumber::UDP, udp(40_000, PORT, &inside));
        send_frame(self.from.netns(), UPLINK, &self.outside.frame(&outside.tos(0, outer)))
    }
}

/// A received datagram: source port, code point, DSCP, TTL.
type Seen = ([u8; 2], u8, u8, u8);

fn seen(frame: &CapturedFrame) -> Option<Seen> {
    let sliced = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Udp(udp))) =
        (&sliced.net, &sliced.transport)
    else {
        return None;
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "of {header:?}");
    let source = udp.source_port().to_be_bytes();
    Some((source, header.ecn.value(), header.dscp.value(), header.time_to_live))
}

/// Sends every combination to a node's pod, twice, and returns what the pod gets. The second time each flow is proven.
fn receive(overlay: &Overlay, to: usize) -> Result<[Vec<Seen>; 2]> {
    let (pod, sender) = (&overlay.pods[to][0], VxlanSender::new(overlay, to)?);
    let socket = pod.netns().udp_bind(pod.ip(), SERVICE)?;
    let round = |last: [u8; 2]| -> Result<Vec<Seen>> {
        let capture = Capture::start(pod.netns(), "eth0")?;
        for (outer, inner) in combinations() {
            sender.send(outer, inner, [32 + outer, inner])?;
        }
        // The last datagram, of a new flow: when it has arrived, all others have.
        sender.send(NOT_ECT, NOT_ECT, last)?;
        for _ in 0..=ARRIVING {
            socket.recv(&mut []).context("one of the datagrams")?;
        }
        let mut seen: Vec<_> = capture.stop()?.frames().iter().filter_map(seen).collect();
        seen.sort_unstable();
        ensure!(
            seen.pop().is_some_and(|(source, ..)| source == last),
            "the last datagram did not arrive last: {seen:?}"
        );
        Ok(seen)
    };
    Ok([round(*b"~1")?, round(*b"~2")?])
}

#[test]
fn congestion_is_reported_as_by_the_kernel_device() -> TestResult {
    for (xdp, stripped) in [("off", 0), ("native", 2 * (ARRIVING + 2)), ("generic", 2 * (ARRIVING + 2))] {
        let overlay = overlay(xdp)?;
        ensure_congestion_is_reported(&overlay).with_context(|| format!("XDP {xdp}"))?;
        let counted = inspect::packets(&overlay.nodes()[0], Hook::UnderlayXdp, Outcome::HandedOver)?;
        assert_eq!(counted, stripped as u64, "XDP {xdp}");
    }
    Ok(())
}

fn ensure_congestion_is_reported(overlay: &Overlay) -> Result<()> {
    let [by_bpf, by_kernel] = [receive(overlay, 0)?, receive(overlay, 1)?];
    assert_eq!(by_bpf[0], by_kernel[0], "through the host stack");
    assert_eq!(by_bpf[1], by_kernel[1], "past it");
    assert_eq!(by_bpf[0].len(), ARRIVING);
    let told = by_bpf[0].iter().filter(|(source, code_point, ..)| source[1] != CE && *code_point == CE);
    assert_eq!(told.count(), 2, "ECT(0) and ECT(1) that became CE");
    let node = &overlay.nodes()[0];
    assert_eq!(inspect::packets(node, Hook::UnderlayIngress, Outcome::NotEcnCapable)?, 2);
    assert_eq!(inspect::through_stack(node)?.1, ARRIVING as u64 + 2, "the first of each flow");
    assert_eq!(inspect::shortcut(node)?.1, ARRIVING as u64);
    Ok(())
}

/// Sends two datagrams with each code point from a node's pod. Returns their outer and inner type of service and TTL.
fn sent(overlay: &Overlay, from: usize) -> Result<Vec<Vec<String>>> {
    let (node, pod, to) = (&overlay.nodes()[from], &overlay.pods[from][0], &overlay.pods[2][0]);
    let (client, server) = (pod.netns().udp_bind(pod.ip(), 0)?, to.netns().udp_bind(to.ip(), 0)?);
    let target: SocketAddr = server.local_addr()?;
    let capture = Capture::start(node.netns(), UPLINK)?;
    for code_point in [0, 0, 1, 1, 2, 2, 3, 3] {
        setsockopt(&client, sockopt::Ipv4Tos, &i32::from(DSCP << 2 | code_point))?;
        client.send_to(b"datagram", target)?;
        ensure!(server.recv_from(&mut [0; 16])? == (8, client.local_addr()?), "another datagram");
    }
    let filter = format!("vxlan && udp && ip.src == {}", node.ip());
    capture.stop()?.fields(&filter, &["ip.dsfield", "ip.ttl", "ip.flags.df"])
}

#[test]
fn outer_headers_have_the_ttl_of_the_kernel_device_and_the_inner_code_point() -> TestResult {
    let mut overlay = overlay("off")?;
    for node in &overlay.nodes()[..2] {
        node.netns().set(&[("net.ipv4.ip_default_ttl", "99")])?;
    }
    let before = inspect::attached(&overlay.nodes()[0])?;
    overlay.agents[0].restart()?;
    inspect::wait_replaced(&overlay.nodes()[0], &before)?;
    inspect::wait_plugged(&overlay.nodes()[0], &overlay.pods[0][0])?;
    let [by_bpf, by_kernel] = [sent(&overlay, 0)?, sent(&overlay, 1)?];
    assert_eq!(by_bpf.len(), 8, "{by_bpf:?}");
    // The first had no proof yet; the other seven skipped the host stack.
    assert_eq!(inspect::shortcut(&overlay.nodes()[0])?.0, 7);
    assert_eq!(by_bpf[..6], by_kernel[..6]);
    assert_eq!(by_bpf[0][..2], ["0x00,0xb8", "99,63"]);
    // BPF copies CE to the outer header (RFC 6040 section 4.1); the kernel sends ECT(0) (RFC 3168 section 9.1.1).
    for (copied, reset) in by_bpf[6..].iter().zip(&by_kernel[6..]) {
        assert_eq!((copied[0].as_str(), reset[0].as_str()), ("0x03,0xbb", "0x02,0xbb"));
        assert_eq!(copied[1..], reset[1..]);
    }
    Ok(())
}
