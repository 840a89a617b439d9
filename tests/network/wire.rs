//! Packets on the wire, as an independent decoder sees them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::traffic::{UdpSession, ping, tcp_transfer};
use flannel_tests::{Capture, TestResult};

use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::Overlay;

/// Fields to decode; those of both outer and inner packet have two values.
const FIELDS: [&str; 15] = [
    "frame.len",
    "eth.src",
    "eth.dst",
    "ip.src",
    "ip.dst",
    "ip.ttl",
    "ip.len",
    "ip.checksum.status",
    "ip.flags.df",
    "udp.srcport",
    "udp.dstport",
    "udp.length",
    "udp.checksum",
    "vxlan.vni",
    "ip.dsfield",
];
/// tshark's value for a right checksum.
const GOOD: &str = "1";

/// Expected values of a packet from the first node's pod to the second's.
struct ExpectedPacket {
    macs: [String; 4],
    addresses: [String; 4],
}

impl ExpectedPacket {
    fn of(overlay: &Overlay) -> Result<Self> {
        let [from, to] = overlay.nodes() else { unreachable!("two nodes") };
        let mac = |node, interface| inspect::link(node, interface).map(|link| link.mac);
        let (pod, remote) = overlay.two_pods();
        Ok(Self {
            macs: [mac(from, UPLINK)?, mac(from, DEVICE)?, mac(to, UPLINK)?, mac(to, DEVICE)?],
            addresses: [
                from.ip().to_string(),
                pod.ip().to_string(),
                to.ip().to_string(),
                remote.ip().to_string(),
            ],
        })
    }

    /// Checks one line of tshark's output, and returns the outer source port.
    fn ensure_is(&self, line: &[String]) -> Result<u16> {
        let value = |field: &str| {
            let at = FIELDS.iter().position(|known| *known == field).context("an unknown field")?;
            line.get(at).map(String::as_str).context("a missing field")
        };
        let first = |field: &str| anyhow::Ok(value(field)?.split(',').next().unwrap_or_default());
        let [from, inner_from, to, inner_to] = &self.macs;
        let pairs = [
            ("eth.src", format!("{from},{inner_from}")),
            ("eth.dst", format!("{to},{inner_to}")),
            ("ip.src", self.addresses[..2].join(",")),
            ("ip.dst", self.addresses[2..].join(",")),
            ("ip.checksum.status", format!("{GOOD},{GOOD}")),
            // The pod's packet has passed one router: its node.
            ("ip.ttl", "64,63".to_owned()),
            ("vxlan.vni", "1".to_owned()),
        ];
        for (field, wanted) in pairs {
            ensure!(value(field)? == wanted, "{field} is {} and not {wanted}", value(field)?);
        }
        ensure!(
            first("udp.dstport")? == "8472" && first("udp.checksum")? == "0x0000",
            "UDP header: {line:?}"
        );
        ensure!(first("ip.dsfield")? == "0x00", "the outer packet has a traffic class: {line:?}");
        ensure!(
            matches!(first("ip.flags.df")?, "0" | "False"),
            "the outer packet must not be fragmented: {line:?}"
        );
        self.ensure_lengths(&value)?;
        first("udp.srcport")?.parse().context("a source port")
    }

    /// Checks the lengths. The headers have 14 (Ethernet), 20 (IPv4), 16 (UDP and VXLAN) and 14 (Ethernet) bytes.
    fn ensure_lengths<'a>(&self, value: &impl Fn(&str) -> Result<&'a str>) -> Result<()> {
        let number = |field: &str, at: usize| -> Result<usize> {
            let text =
                value(field)?.split(',').nth(at).with_context(|| format!("{field} has no value {at}"))?;
            Ok(text.parse()?)
        };
        let inner = number("ip.len", 1)?;
        let lengths = [number("frame.len", 0)?, number("ip.len", 0)?, number("udp.length", 0)?];
        ensure!(lengths == [inner + 64, inner + 50, inner + 30], "{lengths:?} around {inner} bytes");
        Ok(())
    }
}

/// Turns offloads off, so that the kernel segments packets and computes checksums before the capture sees them.
fn switch_offloads_off(overlay: &Overlay) -> Result<()> {
    let off = format!("ethtool -K {UPLINK} tx off tso off gso off");
    overlay.nodes().iter().try_for_each(|node| node.exec(&off).map(drop))
}

fn to_second_node(overlay: &Overlay) -> String {
    format!("vxlan && ip.src == {}", overlay.nodes()[0].ip())
}

#[test]
fn outer_headers_are_those_of_flannel_and_each_flow_has_its_port() -> TestResult {
    const FLOWS: usize = 16;
    let overlay = Overlay::bpf(2)?;
    switch_offloads_off(&overlay)?;
    let (pod, remote) = overlay.two_pods();
    let capture = Capture::start(overlay.nodes()[0].netns(), UPLINK)?;
    ping(pod, remote.ip())?;
    for flow in 0..FLOWS {
        let mut session = UdpSession::open(pod, remote)?;
        session.echo(flow)?;
        session.echo(1422 - flow)?;
    }
    let (capture, wanted) = (capture.stop()?, ExpectedPacket::of(&overlay)?);
    let lines = capture.fields(&to_second_node(&overlay), &FIELDS)?;
    assert_eq!(lines.len(), 1 + 2 * FLOWS, "packets of the first node");
    let ports = lines.iter().map(|line| wanted.ensure_is(line)).collect::<Result<Vec<_>>>()?;
    assert!(ports.iter().all(|port| (32_768..=60_999).contains(port)), "outer source ports {ports:?}");
    for pair in ports[1..].chunks(2) {
        assert_eq!(pair[0], pair[1], "packets of one flow have one outer port");
    }
    // Sixteen of 28 232 ports: two equal ones are rare, four are an error.
    let different = ports[1..].iter().collect::<BTreeSet<_>>().len();
    assert!(different >= FLOWS - 2, "{FLOWS} flows have only {different} outer ports");
    let bad_inner = capture.count("vxlan && udp.checksum.status == 0")?;
    assert_eq!(bad_inner, 0, "inner UDP checksums");
    Ok(())
}

#[test]
fn bulk_data_is_segmented_into_complete_packets() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    switch_offloads_off(&overlay)?;
    let (pod, remote) = overlay.two_pods();
    let capture = Capture::start(overlay.nodes()[0].netns(), UPLINK)?;
    tcp_transfer(pod, remote, 2 << 20)?;
    let (capture, wanted) = (capture.stop()?, ExpectedPacket::of(&overlay)?);
    let lines = capture.fields(&format!("{} && tcp", to_second_node(&overlay)), &FIELDS)?;
    assert!(lines.len() > (2 << 20) / 1450, "{} segments", lines.len());
    for line in &lines {
        wanted.ensure_is(line)?;
    }
    let longest = lines.iter().filter_map(|line| line[0].parse::<usize>().ok()).max();
    assert_eq!(longest, Some(1514), "the longest frame of a full MTU");
    let good = capture.count(&format!("{} && tcp.checksum.status == 1", to_second_node(&overlay)))?;
    assert_eq!(good, lines.len(), "segments with a good inner checksum");
    Ok(())
}
