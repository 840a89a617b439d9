//! Paths that carry less than the uplink, and drop longer packets without a word: the kernel knows it from the MTU of a route, or
//! from a router's ICMP.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, Host, Ping, PingAnswer, TcpSession, ping_with};
use flannel_tests::{NetNs, TestResult, Topology, eventually};

use super::ipv6::{BPF, DUAL, start, two_pods};
use crate::inspect::{self, UPLINK};
use crate::overlay::Overlay;

/// MTU of the path.
const NARROW: u32 = 1400;
/// IPv4 packets of a pod that fit its interface, but not the path.
const LONG: usize = 1430;
/// Time limit for the agent to follow, and for lost data to be sent again.
const SOON: Duration = Duration::from_secs(10);

/// Starts two nodes with a router between them. Packets are on the wire as long as they say.
fn nodes() -> Result<Overlay> {
    let overlay = start(Topology::two_nodes_routed(), DUAL, &[BPF; 2])?;
    for node in overlay.nodes() {
        node.exec(&format!(
            "ethtool -K {UPLINK} gso off tso off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off"
        ))?;
    }
    Ok(overlay)
}

fn router(overlay: &Overlay) -> Result<&NetNs> {
    overlay.cluster.fabric().context("no router")
}

/// Lets the router forward longer packets again, or no longer.
fn set_narrow(overlay: &Overlay, narrow: bool) -> Result<()> {
    let change = if narrow { "-A" } else { "-D" };
    for tool in ["iptables", "ip6tables"] {
        router(overlay)?
            .exec(&format!("{tool} {change} FORWARD -m length --length {}: -j DROP", NARROW + 1))?;
    }
    Ok(())
}

/// Opens a connection that skips the stacks.
fn connect(overlay: &Overlay, from: &dyn Host, to: &dyn Host) -> Result<TcpSession> {
    let mut session = TcpSession::open(from, to)?;
    let before = too_big(overlay)?;
    (0..5).try_for_each(|_| session.exchange(32 << 10))?;
    ensure!(too_big(overlay)? == before, "the path is narrow already");
    Ok(session)
}

/// Counts packets that were too long for the path.
fn too_big(overlay: &Overlay) -> Result<u64> {
    let counts = overlay.nodes().iter().map(|node| inspect::packets(node, Hook::PodEgress, Outcome::TooBig));
    counts.sum()
}

/// Waits until whole packets of the connection take the shortcut again.
fn wait_wide(overlay: &Overlay, session: &mut TcpSession) -> Result<()> {
    eventually("long packets skip the stacks again", SOON, || {
        let before = too_big(overlay)?;
        session.exchange(64 << 10)?;
        ensure!(too_big(overlay)? == before, "they are still too long");
        Ok(())
    })
}

/// Waits until programs find packets of the connection too long. A change of routes may end proofs a moment later, and the stacks
/// carry all packets until the flow is proven again.
fn wait_narrow(overlay: &Overlay, session: &mut TcpSession) -> Result<()> {
    eventually("the programs find packets too long for the path", SOON, || {
        let before = too_big(overlay)?;
        session.exchange(64 << 10)?;
        ensure!(too_big(overlay)? > before, "nothing was too long");
        Ok(())
    })
}

/// Sets or removes routes to the other node with an MTU of their own.
fn change_routes(overlay: &Overlay, change: &str) -> Result<()> {
    let [one, other] = overlay.nodes() else { unreachable!("two nodes") };
    for (node, peer) in [(one, other), (other, one)] {
        for peer in [IpAddr::from(peer.ip()), peer.ip6().into()] {
            let family = if peer.is_ipv4() { "-4" } else { "-6" };
            let gateway = node.exec(&format!("ip {family} route show default"))?;
            let gateway = gateway.split_whitespace().nth(2).context("no default route")?;
            node.exec(&format!("ip {family} route {change} {peer} via {gateway} dev {UPLINK} mtu {NARROW}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_route_to_a_peer_may_have_an_mtu_of_its_own() -> TestResult {
    let overlay = nodes()?;
    let (one, other) = overlay.two_pods();
    let (one6, other6) = two_pods(&overlay)?;
    let mut v4 = connect(&overlay, one, other)?;
    let mut v6 = connect(&overlay, &one6, &other6)?;
    set_narrow(&overlay, true)?;
    change_routes(&overlay, "add")?;
    let long = |dont_fragment| Ping { size: LONG - 28, dont_fragment, ..Ping::default() };
    eventually("long packets arrive", SOON, || match ping_with(one, other.ip(), &long(false))? {
        PingAnswer::Reply { .. } => Ok(()),
        answer => anyhow::bail!("{answer:?}"),
    })?;
    for session in [&mut v4, &mut v6] {
        wait_narrow(&overlay, session)?;
    }
    // The kernel tells pods of the path only where this is set.
    overlay.nodes()[0].exec("sysctl -qw net.ipv4.ip_forward_use_pmtu=1")?;
    let told = format!("mtu {}", NARROW - 50);
    eventually("the pod is told", SOON, || {
        ping_with(one, other.ip(), &long(true))?;
        let known = one.exec(&format!("ip route get {}", other.ip()))?;
        ensure!(known.contains(&told), "{known}");
        Ok(())
    })?;
    set_narrow(&overlay, false)?;
    change_routes(&overlay, "del")?;
    wait_wide(&overlay, &mut v4)?;
    wait_wide(&overlay, &mut v6)?;
    Ok(())
}

#[test]
fn a_router_tells_the_mtu_of_the_path() -> TestResult {
    let overlay = nodes()?;
    let (one, other) = overlay.two_pods();
    let mut session = connect(&overlay, one, other)?;
    set_narrow(&overlay, true)?;
    set_segments(&overlay, NARROW)?;
    let [first, second] = overlay.nodes() else { unreachable!("two nodes") };
    for (node, peer) in [(first, second), (second, first)] {
        let from = At { netns: node.netns(), ip: node.ip().into() };
        let answer = ping_with(
            &from,
            peer.ip().into(),
            &Ping { size: LONG - 28, dont_fragment: true, ..Ping::default() },
        )?;
        assert!(matches!(answer, PingAnswer::TooBig { mtu: NARROW, .. }), "{answer:?}");
    }
    wait_narrow(&overlay, &mut session)?;
    set_narrow(&overlay, false)?;
    set_segments(&overlay, 1500)?;
    for node in overlay.nodes() {
        node.exec("ip route flush cache")?;
    }
    wait_wide(&overlay, &mut session)?;
    Ok(())
}

fn set_segments(overlay: &Overlay, mtu: u32) -> Result<()> {
    router(overlay)?.ip(&["seg0", "seg1"].map(|segment| format!("link set {segment} mtu {mtu}")))
}
