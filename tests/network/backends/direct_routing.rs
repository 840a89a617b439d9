//! vxlan with DirectRouting: packets to nodes on the same link are not encapsulated, and routes follow the underlay.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::flow::PROOF_NS;
use flannel_tests::traffic::{At, UdpSession, ping, tcp_transfer};
use flannel_tests::{Capture, Node, Pod, TestResult, Topology, eventually};

use super::{Bed, FOLLOW, base, base_v6, lines};
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{Streams, lines_of, past_stack};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","EnableIPv6":true,"IPv6Network":"fd44::/48",
    "IPv6SubnetMax":"fd44:0:0:fff::","Backend":{"Type":"vxlan","DirectRouting":true}}"#;
const PROOF: Duration = Duration::from_nanos(PROOF_NS);
/// Routes on the first node that lead to the second one through the router.
const BEHIND_ROUTER: [&str; 2] = [
    "route add 192.168.64.2/32 via 192.168.64.254",
    "route add fd00:192:168:40::2/128 via fd00:192:168:40::fe",
];
const ON_LINK: [&str; 2] = ["route del 192.168.64.2/32", "route del fd00:192:168:40::2/128"];

/// How a node reaches another node's pods.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Path {
    Direct,
    Overlay,
}

/// Returns all routes of a node to other nodes' pods, as `ip` prints them.
fn routes(node: &Node) -> Result<Vec<String>> {
    let mut routes = lines(node, "ip -4 route show root 10.5.0.0/16 proto boot type unicast")?;
    routes.extend(lines(node, "ip -6 route show root fd44::/48 proto boot type unicast")?);
    routes.sort();
    Ok(routes)
}

/// Waits until the first node has these paths to the others and no other entries.
fn ensure_paths(bed: &Bed, paths: &[Path]) -> Result<()> {
    let node = &bed.nodes()[0];
    eventually("the first node's routes follow", FOLLOW, || {
        let (mut expected, mut tunnelled) = (Vec::new(), 0);
        for (peer, path) in bed.nodes()[1..].iter().zip(paths) {
            let (v4, v6) = (base(peer)?, base_v6(peer)?);
            if *path == Path::Direct {
                expected.push(format!("{v4}/24 via {} dev {UPLINK}", peer.ip()));
                expected.push(format!("{v6}/64 via {} dev {UPLINK} metric 1024 pref medium", peer.ip6()));
            } else {
                tunnelled += 1;
                expected.push(format!("{v4}/24 via {v4} dev {DEVICE} onlink"));
                expected.push(format!("{v6}/64 via {v6} dev flannel-v6.1 metric 1024 onlink pref medium"));
            }
        }
        expected.sort();
        let actual = routes(node)?;
        ensure!(actual == expected, "{actual:#?} instead of {expected:#?}");
        for command in ["bridge fdb show dev", "ip neigh show nud permanent dev"] {
            for device in [DEVICE, "flannel-v6.1"] {
                let entries = lines(node, &format!("{command} {device}"))?;
                ensure!(entries.len() == tunnelled, "{tunnelled} peers in {entries:?} on {device}");
            }
        }
        Ok(())
    })
}

#[test]
fn peers_on_the_link_are_reached_without_vxlan() -> TestResult {
    let mut bed = Bed::start(Topology::routed(&[2, 1]), CONFIG)?;
    ensure_paths(&bed, &[Path::Direct, Path::Overlay])?;
    bed.ensure_all_reach_all()?;
    for (to, expected) in [(1, [1, 0]), (2, [0, 1])] {
        let capture = Capture::start(bed.nodes()[0].netns(), UPLINK)?;
        ping(&bed.pods[0], bed.pods[to].ip())?;
        let capture = capture.stop()?;
        let seen =
            ["icmp.type == 8 && !vxlan", "icmp.type == 8 && vxlan"].map(|filter| capture.count(filter));
        let seen = seen.into_iter().collect::<Result<Vec<_>>>()?;
        assert_eq!(seen, expected, "plain and wrapped requests to node {}", to + 1);
    }
    bed.ensure_restarts_change_nothing()?;
    ensure_paths(&bed, &[Path::Direct, Path::Overlay])?;
    Ok(())
}

/// Returns a pod at its address of a family: 0 is IPv4, 1 is IPv6.
pub(super) fn at(pod: &Pod, family: usize) -> At<'_> {
    At { netns: pod.netns(), ip: pod.addresses()[family] }
}

#[test]
fn flows_to_peers_on_the_link_skip_the_stack() -> TestResult {
    const MORE: u64 = 50;
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    ensure_paths(&bed, &[Path::Direct])?;
    bed.ensure_all_reach_all()?;
    for (node, pod) in bed.nodes().iter().zip(&bed.pods) {
        inspect::wait_plugged(node, pod)?;
    }
    let node = &bed.nodes()[0];
    let [one, other] = &bed.pods[..] else { unreachable!("two pods") };
    let ends = |family| (at(one, family), at(other, family));
    for family in 0..2 {
        let (one, other) = ends(family);
        let before = past_stack(node)?;
        let mut session = UdpSession::open(&one, &other)?;
        session.echo(100)?;
        assert_eq!(past_stack(node)?, before, "{}: the first packets have no proof yet", one.ip);
        let capture = Capture::start(node.netns(), UPLINK)?;
        (0..MORE).try_for_each(|size| session.echo(size as usize * 28))?;
        assert_eq!(past_stack(node)?, before.map(|count| count + MORE), "{}", one.ip);
        let capture = capture.stop()?;
        assert_eq!(capture.count("udp && vxlan")?, 0, "{}: a packet has a tunnel", one.ip);
        assert!(capture.count("udp")? >= 2 * MORE as usize, "{}: the capture shows nothing", one.ip);
        let before = past_stack(node)?;
        tcp_transfer(&one, &other, 8 << 20)?;
        tcp_transfer(&other, &one, 8 << 20)?;
        let carried = past_stack(node)?;
        assert!(carried[0] > before[0] + 50 && carried[1] > before[1] + 50, "{}: {carried:?}", one.ip);
    }
    // A rule ends the flow within the time of a proof, as with tunnels.
    let (one, other) = ends(0);
    let mut session = UdpSession::open(&one, &other)?;
    (0..3).try_for_each(|_| session.echo(100))?;
    node.exec("iptables -I FORWARD -p udp -j DROP")?;
    eventually("the rule ends the flow", PROOF + FOLLOW, || {
        ensure!(session.request(100).is_err(), "it goes on");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn routes_follow_the_underlay_without_loss() -> TestResult {
    let bed = Bed::start(Topology::routed(&[2, 1]), CONFIG)?;
    let node = &bed.nodes()[0];
    ensure_paths(&bed, &[Path::Direct, Path::Overlay])?;
    bed.ensure_all_reach_all()?;
    let streams = Streams::between(&bed.pods[0], &bed.pods[1])?;
    for _ in 0..2 {
        node.netns().ip(&BEHIND_ROUTER)?;
        ensure_paths(&bed, &[Path::Overlay, Path::Overlay])?;
        bed.ensure_all_reach_all()?;
        node.netns().ip(&ON_LINK)?;
        ensure_paths(&bed, &[Path::Direct, Path::Overlay])?;
        bed.ensure_all_reach_all()?;
    }
    streams.ensure_whole()?;
    assert_eq!(lines_of(&bed.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn a_route_outdated_while_the_agent_was_stopped_is_corrected() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), CONFIG)?;
    let node = bed.nodes()[0].netns().clone();
    ensure_paths(&bed, &[Path::Direct])?;
    for (change, path) in [(BEHIND_ROUTER, Path::Overlay), (ON_LINK, Path::Direct)] {
        bed.agents[0].term()?;
        node.ip(&change)?;
        bed.agents[0].restart()?;
        ensure_paths(&bed, &[path])?;
        bed.ensure_all_reach_all()?;
    }
    Ok(())
}

#[test]
fn stale_direct_routes_are_removed_at_start_and_foreign_routes_stay() -> TestResult {
    const STALE: [&str; 2] = [
        "10.5.77.0/24 via 192.168.64.2 dev eth0",
        "fd44:0:0:7777::/64 via fd00:192:168:40::2 dev eth0 metric 1024 pref medium",
    ];
    const FOREIGN: [&str; 6] = [
        "10.5.78.0/24 via 192.168.64.2 dev eth0 proto static",
        "10.5.79.0/24 via 192.168.64.2 dev eth0 metric 50",
        "10.5.80.0/25 via 192.168.64.2 dev eth0",
        "10.5.81.0/24 dev eth0 scope link",
        "10.6.77.0/24 via 192.168.64.2 dev eth0",
        "fd45:0:0:7777::/64 via fd00:192:168:40::2 dev eth0 metric 1024 pref medium",
    ];
    let mut bed = Bed::start(Topology::segment(2), CONFIG)?;
    let node = bed.nodes()[0].netns().clone();
    let all =
        || Ok::<_, anyhow::Error>([node.exec("ip -4 route show")?, node.exec("ip -6 route show")?].concat());
    bed.agents[0].term()?;
    for route in STALE.iter().chain(&FOREIGN) {
        node.ip(&[format!("route add {}", route.trim_end_matches(" pref medium"))])?;
    }
    bed.agents[0].restart()?;
    eventually("what is stale is gone", FOLLOW, || {
        let all = all()?;
        ensure!(STALE.iter().all(|stale| !all.contains(stale)), "{all}");
        Ok(())
    })?;
    let (left, first) = (all()?, base(&bed.nodes()[1])?);
    assert!(left.contains(&format!("{first}/24 via 192.168.64.2 dev eth0")), "{left}");
    for foreign in FOREIGN {
        assert!(left.contains(foreign), "no {foreign} in {left}");
    }
    Ok(())
}

#[test]
fn a_route_that_is_deleted_by_hand_comes_back() -> TestResult {
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    ensure_paths(&bed, &[Path::Direct])?;
    let peer = &bed.nodes()[1];
    bed.nodes()[0]
        .netns()
        .ip(&[format!("route del {}/24", base(peer)?), format!("route del {}/64", base_v6(peer)?)])?;
    ensure_paths(&bed, &[Path::Direct])?;
    Ok(())
}

#[test]
fn routes_follow_a_peer_to_another_address() -> TestResult {
    let bed = Bed::start(Topology::segment(2), CONFIG)?;
    ensure_paths(&bed, &[Path::Direct])?;
    bed.nodes()[1].netns().ip(&[
        "addr del 192.168.64.2/24 dev eth0",
        "addr add 192.168.64.102/24 dev eth0",
        "route replace default via 192.168.64.254",
    ])?;
    let route = format!("{}/24 via 192.168.64.102 dev {UPLINK}", base(&bed.nodes()[1])?);
    eventually("the other node follows", FOLLOW, || {
        let routes = routes(&bed.nodes()[0])?;
        ensure!(routes.len() == 2 && routes[0] == route, "{routes:?}");
        routes.first().map(drop).context("no route")
    })?;
    bed.ensure_all_reach_all()?;
    Ok(())
}

#[test]
fn a_cluster_changes_from_direct_routes_to_vxlan_and_back() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), CONFIG)?;
    ensure_paths(&bed, &[Path::Direct])?;
    let foreign = "10.5.79.0/24 via 192.168.64.2 dev eth0";
    for (on, path) in [("false", Path::Overlay), ("true", Path::Direct)] {
        bed.etcd.configure(&CONFIG.replace("\"DirectRouting\":true", &format!("\"DirectRouting\":{on}")))?;
        bed.agents.iter_mut().try_for_each(|agent| agent.restart().map(drop))?;
        ensure_paths(&bed, &[path])?;
        bed.ensure_all_reach_all()?;
        assert_eq!(lines_of(&bed.agents[0].log(), "ERROR"), [""; 0]);
        if path == Path::Overlay {
            // Without DirectRouting, only routes to peers' subnets are removed.
            bed.nodes()[0].netns().ip(&[format!("route add {foreign}")])?;
            bed.agents[0].restart()?;
            bed.ensure_all_reach_all()?;
            let left = bed.nodes()[0].exec("ip route show")?;
            assert!(left.contains(foreign), "{left}");
        }
    }
    Ok(())
}
