//! vxlan with IPv6, with and without IPv4. IPv6 has its own device over the IPv6 underlay.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::{Bed, FOLLOW, base, base_v6, lines, mac, mtu};
use crate::inspect::DEVICE;

const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","EnableIPv6":true,"IPv6Network":"fd44::/48",
    "IPv6SubnetMax":"fd44:0:0:fff::","Backend":{"Type":"vxlan"}}"#;
const V6_ONLY: &str =
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"vxlan"}}"#;
const DEVICE_V6: &str = "flannel-v6.1";
const FICTIONAL: &str = "10.5.77.0-24&fd44:0:0:7777::-64";

/// Returns the lease of a node that does not exist, with these last bytes of its two MACs and its IPv6 address.
fn lease_value(mac: u8, mac_v6: u8, host_v6: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.64.77","PublicIPv6":"fd00:192:168:64::{host_v6:x}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:{mac:02x}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:{mac_v6:02x}"}}}}"#
    )
}

/// Fails unless the node's IPv6 device has the entries of exactly these peers.
fn ensure_knows(node: &Node, peers: &[(Ipv6Addr, String, Ipv6Addr)]) -> Result<()> {
    let mut expected: Vec<_> = peers
        .iter()
        .flat_map(|(base, mac, public)| {
            [
                format!("{base}/64 via {base} metric 1024 onlink pref medium"),
                format!("{base} lladdr {mac} PERMANENT"),
                format!("{mac} dst {public} self permanent"),
            ]
        })
        .collect();
    let mut actual = Vec::new();
    for command in
        ["ip -6 route show proto boot dev", "ip -6 neigh show nud permanent dev", "bridge fdb show dev"]
    {
        actual.extend(lines(node, &format!("{command} {DEVICE_V6}"))?);
    }
    expected.sort();
    actual.sort();
    ensure!(actual == expected, "{actual:#?} instead of {expected:#?}");
    Ok(())
}

/// Waits until every node has the other nodes' entries and no others.
fn ensure_joined(bed: &Bed) -> Result<()> {
    eventually("the IPv6 devices lead to all others", FOLLOW, || {
        for node in bed.nodes() {
            let others = bed.nodes().iter().filter(|other| other.name() != node.name());
            let peers = others.map(|other| Ok((base_v6(other)?, mac(other, DEVICE_V6)?, other.ip6())));
            ensure_knows(node, &peers.collect::<Result<Vec<_>>>()?)?;
        }
        Ok(())
    })
}

fn ensure_device(node: &Node) -> Result<()> {
    let shown = node.exec(&format!("ip -d link show dev {DEVICE_V6}"))?;
    let options = format!("vxlan id 1 local {} dev eth0 srcport 0 0 dstport 8472 nolearning", node.ip6());
    ensure!(shown.contains(&options), "no {options:?} in {shown}");
    ensure!(mtu(node, DEVICE_V6)? == 1430, "{shown}");
    let addresses = node.exec(&format!("ip -6 addr show dev {DEVICE_V6} scope global"))?;
    ensure!(addresses.contains(&format!("inet6 {}/128", base_v6(node)?)), "{addresses}");
    Ok(())
}

#[test]
fn pods_reach_each_other_in_both_families() -> TestResult {
    let mut bed = Bed::start(Topology::segment(3), DUAL)?;
    bed.ensure_all_reach_all()?;
    ensure_joined(&bed)?;
    for node in bed.nodes() {
        ensure_device(node)?;
        let env = node.subnet_env()?;
        let (v4, v6) = (base(node)?, base_v6(node)?);
        assert_eq!(env.ipv6_network.map(|net| net.to_string()).as_deref(), Some("fd44::/48"));
        assert_eq!((env.mtu, mtu(node, DEVICE)?), (1430, 1450), "one MTU for the pods' two families");
        let (key, lease) = bed.lease(node)?;
        assert_eq!(key, format!("{v4}-24&{v6}-64"));
        assert_eq!(lease["PublicIPv6"], node.ip6().to_string());
        assert_eq!(lease["BackendData"]["VtepMAC"], mac(node, DEVICE)?);
        assert_eq!(lease["BackendV6Data"]["VtepMAC"], mac(node, DEVICE_V6)?);
    }
    for agent in &bed.agents {
        assert!(
            agent.status().contains(" and fd44:") && agent.status().contains("/64 on bpf"),
            "{}",
            agent.status()
        );
    }
    bed.ensure_restarts_change_nothing()?;
    ensure_joined(&bed)?;
    Ok(())
}

#[test]
fn pods_reach_each_other_without_ipv4() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), V6_ONLY)?;
    bed.ensure_all_reach_all()?;
    ensure_joined(&bed)?;
    let node = &bed.nodes()[0];
    ensure_device(node)?;
    let (env, (key, lease)) = (node.subnet_env()?, bed.lease(node)?);
    assert_eq!((env.network, env.subnet, env.mtu), (None, None, 1430));
    assert_eq!(key, format!("0.0.0.0-0&{}-64", base_v6(node)?));
    assert_eq!((&lease["PublicIP"], &lease["BackendData"]), (&"0.0.0.0".into(), &serde_json::Value::Null));
    assert!(mtu(node, DEVICE).is_err(), "an IPv4 device without IPv4");
    assert!(bed.agents[0].status().contains("/64 on bpf"), "{}", bed.agents[0].status());
    bed.ensure_restarts_change_nothing()?;
    Ok(())
}

#[test]
fn a_lease_changed_in_one_family_updates_the_device_of_that_family() -> TestResult {
    let bed = Bed::start(Topology::segment(1), DUAL)?;
    let key = format!("{}/subnets/{FICTIONAL}", flannel_tests::etcd::PREFIX);
    let node = &bed.nodes()[0];
    let fdb = |device: &str| lines(node, &format!("bridge fdb show dev {device}"));
    for (mac, mac_v6, host_v6) in [(1, 2, 0x77), (1, 3, 0x77), (1, 3, 0x78), (4, 3, 0x78)] {
        bed.etcd.put(&key, &lease_value(mac, mac_v6, host_v6))?;
        let entry = |mac: u8, to: &str| vec![format!("c6:d2:32:6f:8f:{mac:02x} dst {to} self permanent")];
        eventually("both devices have the MACs and addresses of the lease", FOLLOW, || {
            let expected =
                (entry(mac, "192.168.64.77"), entry(mac_v6, &format!("fd00:192:168:64::{host_v6:x}")));
            let actual = (fdb(DEVICE)?, fdb(DEVICE_V6)?);
            ensure!(actual == expected, "{actual:?} instead of {expected:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_peer_with_new_macs_is_followed() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), DUAL)?;
    bed.ensure_all_reach_all()?;
    let before = [DEVICE, DEVICE_V6].map(|device| mac(&bed.nodes()[1], device).unwrap());
    bed.agents[1].kill()?;
    // A reboot takes away the devices and what the agent remembers of them.
    bed.nodes()[1].netns().ip(&[format!("link del {DEVICE}"), format!("link del {DEVICE_V6}")])?;
    std::fs::remove_file(bed.nodes()[1].dir().join("subnet.last-known.json"))?;
    bed.agents[1].restart()?;
    let after = [DEVICE, DEVICE_V6].map(|device| mac(&bed.nodes()[1], device).unwrap());
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?}, {after:?}");
    bed.ensure_all_reach_all()?;
    ensure_joined(&bed)?;
    Ok(())
}

#[test]
fn a_peer_with_another_ipv6_address_is_followed() -> TestResult {
    let bed = Bed::start(Topology::segment(2), DUAL)?;
    bed.ensure_all_reach_all()?;
    let node = &bed.nodes()[1];
    let kept = [DEVICE, DEVICE_V6].map(|device| mac(node, device).unwrap());
    node.netns()
        .ip(&["addr add fd00:192:168:40::102/64 dev eth0", "addr del fd00:192:168:40::2/64 dev eth0"])?;
    let peer = (base_v6(node)?, kept[1].clone(), "fd00:192:168:40::102".parse()?);
    eventually("the other node follows", FOLLOW, || {
        ensure_knows(&bed.nodes()[0], std::slice::from_ref(&peer))
    })?;
    bed.ensure_all_reach_all()?;
    assert_eq!([DEVICE, DEVICE_V6].map(|device| mac(node, device).unwrap()), kept);
    Ok(())
}

#[test]
fn ipv6_entries_that_others_removed_or_replaced_come_back() -> TestResult {
    let bed = Bed::start(Topology::segment(2), DUAL)?;
    ensure_joined(&bed)?;
    let [node, peer] = bed.nodes() else { unreachable!("two nodes") };
    let (base, mac) = (base_v6(peer)?, mac(peer, DEVICE_V6)?);
    for damage in [
        format!("ip -6 route del {base}/64"),
        format!("ip -6 route replace {base}/64 via {} dev eth0", peer.ip6()),
        "ip -6 route flush root fd44::/48 proto boot".to_owned(),
        format!("ip -6 neigh replace {base} lladdr 02:00:00:00:00:99 dev {DEVICE_V6} nud permanent"),
        format!("ip -6 neigh flush dev {DEVICE_V6} nud permanent"),
        format!("bridge fdb replace {mac} dst fd00::99 dev {DEVICE_V6}"),
        format!("bridge fdb flush dev {DEVICE_V6}"),
    ] {
        node.exec(&damage)?;
        ensure_joined(&bed)?;
    }
    bed.ensure_all_reach_all()?;
    Ok(())
}
