//! The backend host-gw: plain routes through the other nodes.

use anyhow::{Result, ensure};
use flannel_tests::wait::throughout;
use flannel_tests::{Cluster, Node, TestResult, Topology, eventually};

use super::{AWAY, Bed, FOLLOW, base, base_v6, lines};
use crate::overlay::{lines_of, refusal};

const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","EnableIPv6":true,"IPv6Network":"fd44::/48",
    "Backend":{"Type":"host-gw"}}"#;
const V4: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{"Type":"host-gw"}}"#;

/// Returns the routes of a node into the pods' IPv4 network.
fn routes(node: &Node) -> Result<Vec<String>> {
    lines(node, "ip route show root 10.5.0.0/16 proto boot type unicast")
}

/// Waits until the node has one route to each of these and no other.
fn ensure_routes(node: &Node, peers: &[&Node]) -> Result<()> {
    eventually("the routes follow", FOLLOW, || {
        let route = |peer: &&Node| Ok(format!("{}/24 via {} dev eth0", base(peer)?, peer.ip()));
        let mut expected = peers.iter().map(route).collect::<Result<Vec<_>>>()?;
        let mut actual = routes(node)?;
        expected.sort();
        actual.sort();
        ensure!(actual == expected, "{actual:?} instead of {expected:?}");
        Ok(())
    })
}

#[test]
fn pods_reach_each_other_in_both_families() -> TestResult {
    let mut bed = Bed::start(Topology::segment(3), DUAL)?;
    bed.ensure_all_reach_all()?;
    let [one, two, three] = bed.nodes() else { unreachable!("three nodes") };
    ensure_routes(one, &[two, three])?;
    let v6 = lines(one, "ip -6 route show root fd44::/48 proto boot type unicast")?;
    assert!(
        v6.contains(&format!("{}/64 via {} dev eth0 metric 1024 pref medium", base_v6(two)?, two.ip6())),
        "{v6:?}"
    );
    assert_eq!((one.subnet_env()?.mtu, lines(one, "ip -br link show type vxlan")?.len()), (1500, 0));
    let key = format!("{}/subnets/{}-24&{}-64", flannel_tests::etcd::PREFIX, base(one)?, base_v6(one)?);
    let value = r#"{"PublicIP":"192.168.64.1","PublicIPv6":"fd00:192:168:40::1","BackendType":"host-gw"}"#;
    assert_eq!(bed.etcd.get(&key)?.as_deref(), Some(value));
    assert!(bed.agents[0].status().contains(" on host-gw"), "{}", bed.agents[0].status());
    bed.ensure_restarts_change_nothing()?;
    Ok(())
}

#[test]
fn traffic_goes_on_without_the_agent_and_the_next_one_adopts_the_routes() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), V4)?;
    bed.ensure_all_reach_all()?;
    let before = routes(&bed.nodes()[0])?;
    bed.agents[0].term()?;
    throughout("pods reach each other", AWAY, || bed.pings())?;
    bed.agents[0].restart()?;
    throughout("the routes stay", AWAY, || {
        ensure!(routes(&bed.nodes()[0])? == before, "{:?}", routes(&bed.nodes()[0])?);
        bed.pings()
    })?;
    Ok(())
}

#[test]
fn routes_lost_with_a_link_that_went_down_come_back() -> TestResult {
    let bed = Bed::start(Topology::segment(2), V4)?;
    let [node, peer] = bed.nodes() else { unreachable!("two nodes") };
    ensure_routes(node, &[peer])?;
    node.netns().ip(&["link set eth0 down"])?;
    eventually("the route is gone with its link", FOLLOW, || {
        ensure!(routes(node)?.is_empty(), "it still exists");
        Ok(())
    })?;
    node.netns().ip(&["link set eth0 up", "route replace default via 192.168.64.254"])?;
    ensure_routes(node, &[peer])?;
    bed.ensure_all_reach_all()?;
    Ok(())
}

#[test]
fn routes_that_others_removed_or_replaced_come_back() -> TestResult {
    let bed = Bed::start(Topology::segment(2), V4)?;
    let [node, peer] = bed.nodes() else { unreachable!("two nodes") };
    ensure_routes(node, &[peer])?;
    let base = base(peer)?;
    for damage in [
        format!("ip route del {base}/24"),
        format!("ip route replace {base}/24 via 192.168.64.99 dev eth0"),
        format!("ip route replace blackhole {base}/24"),
        "ip route flush root 10.5.0.0/16 proto boot".to_owned(),
    ] {
        node.exec(&damage)?;
        ensure_routes(node, &[peer])?;
    }
    bed.ensure_all_reach_all()?;
    Ok(())
}

#[test]
fn a_peer_behind_a_router_is_logged_until_it_is_on_the_link() -> TestResult {
    let bed = Bed::start(Topology::routed(&[2, 1]), V4)?;
    let [node, near, far] = bed.nodes() else { unreachable!("three nodes") };
    ensure_routes(node, &[near])?;
    let warnings = || lines_of(&bed.agents[0].log(), "WARN");
    eventually("the far peer is named", FOLLOW, || {
        let far = format!("the pods of {} ({}/24) cannot be reached", far.ip(), base(far)?);
        let warnings = warnings();
        ensure!(matches!(&warnings[..], [warning] if warning.contains(&far)), "{warnings:?}");
        Ok(())
    })?;
    // Puts it on the link, as proxy ARP does.
    node.netns().ip(&[format!("route add {}/32 dev eth0", far.ip())])?;
    ensure_routes(node, &[near, far])?;
    node.netns().ip(&[format!("route del {}/32 dev eth0", far.ip())])?;
    ensure_routes(node, &[near])?;
    eventually("it is named again", FOLLOW, || {
        ensure!(warnings().len() == 2, "{:?}", warnings());
        Ok(())
    })?;
    Ok(())
}

#[test]
fn nat_is_refused() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(V4)?;
    let error = refusal(&cluster.nodes()[0], |agent| agent.etcd(&etcd).arg("--public-ip=203.0.113.9"))?;
    assert!(error.contains("203.0.113.9 is not the uplink's address 192.168.64.1"), "{error}");
    assert_eq!(etcd.subnets()?, []);
    Ok(())
}
