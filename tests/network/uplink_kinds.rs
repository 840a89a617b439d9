//! Uplinks of each kind that the documents name (docs/kernels.md): pods reach each other, by BPF where frames have an
//! Ethernet header, and else by the floor, which the agent says.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_tests::traffic::{Ping, PingAnswer, Transfer, UdpSession, ping, ping_with, tcp_transfer};
use flannel_tests::tunnel::{Carries, Tunnel};
use flannel_tests::{Agent, Cluster, Node, Pod, TestResult, Topology, eventually};

use crate::inspect;
use crate::overlay::{NETWORK, Overlay, lines_of};

const UPLINK: &str = "up0";
const BULK: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);
/// IPv4 and ICMP headers.
const HEADERS: u32 = 28;

/// What carries packets over an uplink.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// The programs. With `--xdp native`, XDP in this mode.
    Bpf(Option<&'static str>),
    /// The kernel's device: there is no Ethernet header.
    Floor,
}

/// Makes a node's uplink by these commands, in place of `eth0`, which has no address then.
fn make(node: &Node, lines: &[&str]) -> Result<()> {
    let addresses = [
        format!("addr add {}/24 dev {UPLINK}", node.ip()),
        format!("addr add {}/64 dev {UPLINK} nodad", node.ip6()),
        format!("link set {UPLINK} up"),
    ];
    let lines = ["addr flush dev eth0"].iter().chain(lines).map(|line| (*line).to_owned());
    node.netns().ip(&lines.chain(addresses).collect::<Vec<_>>())
}

/// Lets pods of two nodes reach each other over uplinks that `make` has made, whose pods have this MTU.
fn carries(make: impl FnOnce(&Cluster) -> Result<Option<Tunnel>>, way: Way, pods_mtu: u32) -> TestResult {
    let cluster = Cluster::build(Topology::segment(2))?;
    let _tunnel = make(&cluster)?;
    let mut overlay = Overlay::launch_on(NETWORK, cluster, &["--dataplane=auto"; 2], 1, |agent| {
        agent.arg(format!("--iface={UPLINK}"))
    })?;
    overlay.wait_joined()?;
    for node in overlay.nodes() {
        assert_eq!(node.subnet_env()?.mtu, pods_mtu, "{}", node.name());
    }
    if let Way::Bpf(_) = way {
        overlay.wait_plugged()?;
    }
    let (one, other) = overlay.two_pods();
    // Later not: with XDP a veth drops bursts that its ring cannot hold, on an emulated processor.
    exchange(one, other, pods_mtu)?.ensure_few_lost()?;
    exchange(other, one, pods_mtu)?.ensure_few_lost()?;
    match way {
        Way::Floor => by_the_floor(&overlay),
        Way::Bpf(xdp) => {
            by_bpf(&overlay)?;
            with_xdp(&mut overlay, xdp, pods_mtu)
        }
    }
}

/// Sends ICMP up to the MTU, UDP of one and of several fragments, and TCP, each byte checked.
fn exchange(one: &Pod, other: &Pod, mtu: u32) -> Result<Transfer> {
    eventually("pods reach each other", SOON, || ping(one, other.ip()).map(drop))?;
    let full = Ping { size: (mtu - HEADERS) as usize, dont_fragment: true, ..Ping::default() };
    let answer = ping_with(one, other.ip(), &full)?;
    ensure!(matches!(answer, PingAnswer::Reply { .. }), "a ping as long as the MTU {mtu}: {answer:?}");
    let mut session = UdpSession::open(one, other)?;
    for size in [1, 100, 1000, 4000, 100, 1000] {
        session.echo(size).with_context(|| format!("UDP with {size} bytes"))?;
    }
    tcp_transfer(one, other, BULK)
}

fn warnings(agent: &Agent) -> Vec<String> {
    lines_of(&agent.log(), "WARN")
}

/// The programs carry, through the host stack and past it.
fn by_bpf(overlay: &Overlay) -> Result<()> {
    for (node, agent) in overlay.nodes().iter().zip(&overlay.agents) {
        let (through, past) = (inspect::through_stack(node)?, inspect::shortcut(node)?);
        for carried in [through.0, through.1, past.0, past.1] {
            ensure!(carried > 0, "{}: {through:?} through the stack, {past:?} past it", node.name());
        }
        ensure!(warnings(agent).is_empty(), "{:#?}", warnings(agent));
    }
    Ok(())
}

/// The programs are attached nowhere, and the agent says why, once.
fn by_the_floor(overlay: &Overlay) -> TestResult {
    let why = format!("the uplink {UPLINK} has no Ethernet header");
    for (node, agent) in overlay.nodes().iter().zip(&overlay.agents) {
        for interface in [UPLINK, inspect::DEVICE] {
            assert_eq!(inspect::programs(node, interface)?, [""; 0], "{interface}");
        }
        assert!(!inspect::pins(node)?.exist(), "pins are left");
        let warnings = warnings(agent);
        assert!(warnings.len() == 1 && warnings[0].contains(&why), "{warnings:#?}");
    }
    Ok(())
}

/// Asks for native XDP on the first node. Where the driver has none, the agent says so, and TC goes on.
fn with_xdp(overlay: &mut Overlay, mode: Option<&'static str>, pods_mtu: u32) -> TestResult {
    overlay.agents[0].restart_with(|args| args.push("--xdp=native".to_owned()))?;
    let (node, agent) = (&overlay.nodes()[0], &overlay.agents[0]);
    assert_eq!(inspect::xdp(node, UPLINK)?.map(|(mode, _)| mode), mode);
    let refused = format!("--xdp native is not possible on {UPLINK}");
    let said = warnings(agent).iter().filter(|line| line.contains(&refused)).count();
    assert_eq!(said, usize::from(mode.is_none()), "{}", agent.log());
    let (one, other) = overlay.two_pods();
    let before = inspect::carried(node)?;
    exchange(one, other, pods_mtu)?;
    exchange(other, one, pods_mtu)?;
    let now = inspect::carried(node)?;
    assert!(now.0 > before.0 && now.1 > before.1, "{before:?}, {now:?}");
    Ok(())
}

/// Makes the uplink of each node by these commands.
fn by(lines: &[&str]) -> impl FnOnce(&Cluster) -> Result<Option<Tunnel>> {
    move |cluster| {
        cluster.nodes().iter().try_for_each(|node| make(node, lines))?;
        Ok(None)
    }
}

/// Joins the nodes by a program that passes on what it reads.
fn tunnelled(carries: Carries) -> impl FnOnce(&Cluster) -> Result<Option<Tunnel>> {
    move |cluster| {
        let [one, other] = cluster.nodes() else { bail!("not two nodes") };
        let tunnel = Tunnel::join(UPLINK, carries, [one.netns(), other.netns()])?;
        by(&[])(cluster)?;
        Ok(Some(tunnel))
    }
}

/// Joins the nodes by WireGuard, over addresses of their own.
fn wireguard(cluster: &Cluster) -> Result<Option<Tunnel>> {
    let outside = |node: &Node| format!("172.31.0.{}", node.ip().octets()[3]);
    let mut keys = Vec::new();
    for node in cluster.nodes() {
        make(node, &[&format!("addr add {}/24 dev eth0", outside(node)), "link add up0 type wireguard"])?;
        let private = node.exec("wg genkey")?;
        let public = node.netns().exec_with("wg pubkey", &private)?;
        keys.push((private, public.trim().to_owned()));
    }
    let peers = cluster.nodes().iter().zip(&keys).rev();
    for ((node, (private, _)), (peer, (_, public))) in cluster.nodes().iter().zip(&keys).zip(peers) {
        let (inside, outside) = (format!("{},{}", peer.ip(), peer.ip6()), outside(peer));
        let peer = format!("peer {public} allowed-ips {inside} endpoint {outside}:51820");
        let set = format!("wg set {UPLINK} listen-port 51820 private-key /proc/self/fd/0 {peer}");
        node.netns().exec_with(&set, private)?;
    }
    Ok(None)
}

#[test]
fn veth() -> TestResult {
    carries(by(&["link set eth0 down", "link set eth0 name up0"]), Way::Bpf(Some("native")), 1450)
}

#[test]
fn bridge() -> TestResult {
    carries(by(&["link add up0 type bridge", "link set eth0 master up0"]), Way::Bpf(None), 1450)
}

#[test]
fn macvlan() -> TestResult {
    // Otherwise Linux answers for the uplink's address with the MAC of eth0 as well.
    let lines = ["link add up0 link eth0 type macvlan mode bridge", "link set eth0 arp off"];
    carries(by(&lines), Way::Bpf(None), 1450)
}

#[test]
fn tap() -> TestResult {
    carries(tunnelled(Carries::Frames), Way::Bpf(Some("native")), 1450)
}

#[test]
fn tun() -> TestResult {
    carries(tunnelled(Carries::Packets), Way::Floor, 1450)
}

/// Kinds that not every kernel has. None is skipped: where one is missing, the test fails.
mod of_debians_kernel {
    use super::*;

    #[test]
    #[ignore = "needs the kernel module 8021q, which `cargo xtask vm` has"]
    fn vlan() -> TestResult {
        carries(by(&["link add up0 link eth0 type vlan id 100"]), Way::Bpf(None), 1450)
    }

    #[test]
    #[ignore = "needs the kernel module bonding, which `cargo xtask vm` has"]
    fn bond() -> TestResult {
        let lines = ["link add up0 type bond mode active-backup miimon 100", "link set eth0 down"];
        let ports = ["link set eth0 master up0", "link set up0 up"];
        carries(by(&[lines, ports].concat()), Way::Bpf(Some("native")), 1450)
    }

    #[test]
    #[ignore = "needs the kernel modules 8021q and bonding, which `cargo xtask vm` has"]
    fn vlan_of_a_bridge_of_a_bond() -> TestResult {
        let lines = [
            "link add bond0 type bond mode active-backup miimon 100",
            "link set eth0 down",
            "link set eth0 master bond0",
            "link set bond0 up",
            "link add br0 type bridge",
            "link set bond0 master br0",
            "link set br0 up",
            "link add up0 link br0 type vlan id 100",
        ];
        carries(by(&lines), Way::Bpf(None), 1450)
    }

    #[test]
    #[ignore = "needs the kernel module ipvlan, which `cargo xtask vm` has"]
    fn ipvlan_of_layer_2() -> TestResult {
        carries(by(&["link add up0 link eth0 type ipvlan mode l2"]), Way::Bpf(None), 1450)
    }

    #[test]
    #[ignore = "needs the kernel module wireguard, which `cargo xtask vm` has"]
    fn wireguard() -> TestResult {
        carries(super::wireguard, Way::Floor, 1370)
    }
}
