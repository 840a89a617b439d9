//! The backend udp: the agents carry packets in datagrams between their TUN devices.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use flannel_tests::traffic::{Ping, PingAnswer, ping, ping_with, tcp_transfer, udp_echo};
use flannel_tests::{Capture, Cluster, Node, TestResult, Topology, eventually};

use super::{Bed, FOLLOW, base, lines, mtu};
use crate::inspect::UPLINK;
use crate::overlay::{lines_of, refusal};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{"Type":"udp"}}"#;
const TUN: &str = "flannel0";
/// An address in a subnet without a lease.
const UNLEASED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 5, 0, 5));

/// Fails unless the device has flanneld's properties.
fn ensure_device(node: &Node) -> Result<()> {
    let shown = node.exec(&format!("ip -d link show dev {TUN}"))?;
    for part in ["POINTOPOINT", "UP,LOWER_UP", "mtu 1472", "qlen 500", "tun type tun"] {
        ensure!(shown.contains(part), "no {part:?} in {shown}");
    }
    let address = node.exec(&format!("ip -4 addr show dev {TUN}"))?;
    ensure!(address.contains(&format!("inet {}/32 scope global", base(node)?)), "{address}");
    let routes = lines(node, &format!("ip -4 route show dev {TUN}"))?;
    ensure!(routes == ["10.5.0.0/16"], "{routes:?}");
    Ok(())
}

#[test]
fn pods_reach_each_other() -> TestResult {
    let mut bed = Bed::start(Topology::segment(3), CONFIG)?;
    bed.ensure_all_reach_all()?;
    let node = &bed.nodes()[0];
    ensure_device(node)?;
    assert_eq!((node.subnet_env()?.mtu, mtu(node, UPLINK)?), (1472, 1500));
    let key = format!("{}/subnets/{}-24", flannel_tests::etcd::PREFIX, base(node)?);
    let value = r#"{"PublicIP":"192.168.64.1","PublicIPv6":null}"#;
    assert_eq!(bed.etcd.get(&key)?.as_deref(), Some(value));
    let (one, other) = (&bed.pods[0], &bed.pods[1]);
    for size in [0, 1, 1444, 1445, 9000, 65_507] {
        udp_echo(one, other, size)?;
        udp_echo(other, one, size)?;
    }
    tcp_transfer(one, other, 4 << 20)?;
    tcp_transfer(other, one, 4 << 20)?;
    assert_eq!(lines_of(&bed.agents[0].log(), "WARN"), [""; 0]);
    bed.ensure_restarts_change_nothing()?;
    ensure_device(&bed.nodes()[0])?;
    Ok(())
}

/// Returns source, destination and payload of the tunnel's outgoing datagrams.
fn datagrams(capture: &Capture) -> Result<Vec<(Ipv4Addr, Ipv4Addr, Vec<u8>)>> {
    let mut seen = Vec::new();
    for frame in capture.frames().iter().filter(|frame| frame.outgoing) {
        let outer = SlicedPacket::from_ethernet(&frame.bytes)?;
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&outer.net, &outer.transport)
        else {
            continue;
        };
        ensure!((udp.source_port(), udp.destination_port()) == (8285, 8285), "{outer:?}");
        seen.push((ip.header().source_addr(), ip.header().destination_addr(), udp.payload().to_vec()));
    }
    Ok(seen)
}

#[test]
fn each_datagram_carries_one_packet_and_nothing_else() -> TestResult {
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    bed.ensure_all_reach_all()?;
    let capture = Capture::start(bed.nodes()[0].netns(), UPLINK)?;
    let answer = ping_with(&bed.pods[0], bed.pods[1].ip(), &Ping { size: 99, ..Ping::default() })?;
    let seen = datagrams(&capture.stop()?)?;
    let [(from, to, packet)] = &seen[..] else { panic!("not one datagram: {seen:?}") };
    assert_eq!((*from, *to), (bed.nodes()[0].ip(), bed.nodes()[1].ip()));
    let inner = SlicedPacket::from_ip(packet)?;
    let Some(NetSlice::Ipv4(ip)) = &inner.net else { panic!("no IPv4: {inner:?}") };
    let header = ip.header();
    assert_eq!(
        [header.source_addr(), header.destination_addr()].map(IpAddr::V4),
        [bed.pods[0].ip(), bed.pods[1].ip()]
    );
    assert_eq!((header.total_len(), packet.len()), (99 + 28, 99 + 28), "the packet and nothing else");
    // The pod's node has decremented the TTL, and so has this end of the tunnel.
    assert_eq!((header.ttl(), header.header_checksum()), (62, header.to_header().calc_header_checksum()));
    // The request has passed two hops, the reply four.
    assert!(matches!(answer, PingAnswer::Reply { ttl: Some(60), .. }), "{answer:?}");
    Ok(())
}

#[test]
fn a_packet_to_an_unleased_subnet_gets_an_icmp_error() -> TestResult {
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    bed.ensure_all_reach_all()?;
    let pod = &bed.pods[0];
    let socket = pod.netns().udp_bind(pod.ip(), 0)?;
    let capture = Capture::start(pod.netns(), "eth0")?;
    socket.send_to(b"is anybody there?", (UNLEASED, 9))?;
    let filter = "icmp.type == 3 && icmp.code == 0 && ip.checksum.status == 1 && icmp.checksum.status == 1";
    let is_icmp = |bytes: &[u8]| bytes.get(12..14) == Some(&[8, 0]) && bytes.get(23) == Some(&1);
    eventually("the ICMP error arrives", FOLLOW, || {
        ensure!(capture.so_far().iter().any(|frame| is_icmp(&frame.bytes)), "no ICMP yet");
        Ok(())
    })?;
    let fields = capture.stop()?.fields(filter, &["ip.src", "ip.dst", "udp.dstport"])?;
    let (gateway, pod) = (Ipv4Addr::from_bits(base(&bed.nodes()[0])?.to_bits() | 1), pod.ip());
    assert_eq!(fields, [[format!("{gateway},{pod}"), format!("{pod},{UNLEASED}"), "9".to_owned()]]);
    Ok(())
}

#[test]
fn each_node_and_each_tunnel_end_decrements_the_ttl() -> TestResult {
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    bed.ensure_all_reach_all()?;
    // Node, tunnel, tunnel, node: four hops.
    for (ttl, arrives) in [(4, false), (5, true)] {
        let limited = Ping { ttl, ..Ping::default() };
        let answer = ping_with(&bed.pods[0], bed.pods[1].ip(), &limited);
        let replied = matches!(answer, Ok(PingAnswer::Reply { .. }));
        assert_eq!(replied, arrives, "TTL {ttl}: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_removed_lease_stops_traffic_and_a_new_one_starts_it() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), CONFIG)?;
    bed.ensure_all_reach_all()?;
    let key = format!("{}/subnets/{}-24", flannel_tests::etcd::PREFIX, base(&bed.nodes()[1])?);
    let value = bed.etcd.get(&key)?.context("no lease")?;
    bed.agents[1].kill()?;
    bed.etcd.delete(&key)?;
    let capture = Capture::start(bed.nodes()[0].netns(), UPLINK)?;
    eventually("no more datagrams are sent there", FOLLOW, || {
        let before = capture.so_far().len();
        let _ = ping_with(&bed.pods[0], bed.pods[1].ip(), &Ping { timeout: FOLLOW / 50, ..Ping::default() });
        let new = capture.so_far().split_off(before);
        ensure!(!new.iter().any(|frame| frame.outgoing && frame.bytes.len() > 120), "a datagram was sent");
        Ok(())
    })?;
    drop(capture);
    bed.etcd.put(&key, &value)?;
    bed.agents[1].restart()?;
    bed.ensure_all_reach_all()?;
    Ok(())
}

#[test]
fn a_new_uplink_address_is_followed() -> TestResult {
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    bed.ensure_all_reach_all()?;
    bed.nodes()[1].netns().ip(&[
        "addr del 192.168.64.2/24 dev eth0",
        "addr add 192.168.64.102/24 dev eth0",
        "route replace default via 192.168.64.254",
    ])?;
    bed.ensure_all_reach_all()?;
    ensure_device(&bed.nodes()[1])?;
    assert!(bed.leases()?.iter().any(|(_, value)| value.contains("192.168.64.102")), "{:?}", bed.leases()?);
    Ok(())
}

#[test]
fn a_deleted_device_is_made_again() -> TestResult {
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    bed.ensure_all_reach_all()?;
    let node = &bed.nodes()[0];
    node.netns().ip(&[format!("link del {TUN}")])?;
    eventually("the device is back", FOLLOW, || ensure_device(node))?;
    bed.ensure_all_reach_all()?;
    ping(&bed.pods[0], bed.pods[1].ip())?;
    Ok(())
}

#[test]
fn a_port_or_device_in_use_is_named_in_the_error() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(CONFIG)?;
    let [one, other] = cluster.nodes() else { unreachable!("two nodes") };
    let _holder = one.netns().udp_bind(one.ip().into(), 8285)?;
    other.netns().ip(&["tuntap add mode tap name flannel0"])?;
    for (node, expected) in
        [(one, "UDP port 8285 of 192.168.64.1"), (other, "making the TUN device flannel0")]
    {
        let error = refusal(node, |agent| agent.etcd(&etcd))?;
        assert!(error.contains(expected), "no {expected:?} in {error}");
    }
    Ok(())
}
