//! "k8s网络插件flannel模式剖析": three nodes with the uplink ens192, pods that ping each other, and tcpdump on the way.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, Etcd, Node, Pod, TestResult, eventually};

use super::{Pings, REPLY, ensure_shows, rename_uplinks};

const UPLINK: &str = "ens192";
const MASTER: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 100);
const NODE1: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 101);
const NODE2: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 102);
/// The text's `net-conf.json`. `SubnetMin` lets the first node have 10.244.0.0/24, as Kubernetes gives it.
const VXLAN: &str = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.0.0","Backend":{"Type":"vxlan"}}"#;
/// The same with the line that the text adds, in its spelling.
const DIRECT: &str = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.0.0",
    "Backend":{"Type":"vxlan","Directrouting":true}}"#;
const SOON: Duration = Duration::from_secs(10);

/// The text's cluster, with a pod on each node. Fields are in the order of their drops.
struct Walk {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    etcd: Etcd,
    cluster: Cluster,
}

impl Walk {
    fn start(flag: &str) -> Result<Self> {
        let cluster = Cluster::segment(3)?;
        rename_uplinks(&cluster, UPLINK, MASTER)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(VXLAN)?;
        for number in 0..3 {
            let public_ip = format!(r#"{{"PublicIP":"172.16.1.{}"}}"#, 100 + number);
            etcd.put(&format!("{PREFIX}/subnets/10.244.{number}.0-24"), &public_ip)?;
        }
        let agents = cluster.start_agents_with(&etcd, |agent| agent.arg(flag))?;
        let pods = cluster.one_pod_each()?;
        let walk = Self { pods, agents, etcd, cluster };
        walk.wait_connected()?;
        Ok(walk)
    }

    /// Returns master, node1 and node2.
    fn nodes(&self) -> [&Node; 3] {
        let [master, node1, node2] = self.cluster.nodes() else { unreachable!("three nodes") };
        [master, node1, node2]
    }

    fn wait_connected(&self) -> Result<()> {
        eventually("the pods of node1 and node2 reach each other", SOON, || {
            ping(&self.pods[1], self.pods[2].ip()).map(drop)
        })
    }

    /// Checks the routes of the master that the text shows.
    fn ensure_routes(&self, to_node1: &str, to_node2: &str) -> Result<()> {
        let expected = [
            "default via 172.16.1.254 dev ens192 proto static metric 100",
            "10.244.0.0/24 dev cni0 proto kernel scope link src 10.244.0.1",
            to_node1,
            to_node2,
            "172.16.1.0/24 dev ens192 proto kernel scope link src 172.16.1.100",
        ];
        eventually("the routes are those of the text", SOON, || {
            let shown = self.nodes()[0].exec("ip route show")?;
            let lines: Vec<_> = shown.lines().map(str::trim).collect();
            let missing: Vec<_> = expected.iter().filter(|route| !lines.contains(route)).collect();
            ensure!(missing.is_empty(), "no {missing:?} in {lines:#?}");
            Ok(())
        })
    }

    /// Returns pings of node2's pod by node1's.
    fn pings(&self) -> Pings<'_> {
        Pings { node: self.nodes()[1].netns(), from: &self.pods[1], to: &self.pods[2] }
    }
}

#[test]
fn the_walk_through_flannels_modes_works_as_written() -> TestResult {
    let mut walk = Walk::start("--dataplane=bpf")?;
    configured_by_flannel(&walk)?;
    vxlan(&walk)?;
    // Requests leave flannel.1 by BPF before tcpdump on it would see them. Replies arrive through it.
    let pings = walk.pings();
    let replies: Vec<_> = pings.both_ways().into_iter().filter(|[_, _, kind]| kind == REPLY).collect();
    assert_eq!(pings.icmp("flannel.1")?, replies, "on flannel.1");
    direct_routing(&mut walk)?;
    Ok(())
}

#[test]
fn on_the_floor_tcpdump_on_flannel_1_shows_both_ways_as_in_the_text() -> TestResult {
    let mut walk = Walk::start("--dataplane=netlink")?;
    configured_by_flannel(&walk)?;
    vxlan(&walk)?;
    assert_eq!(walk.pings().icmp("flannel.1")?, walk.pings().both_ways(), "on flannel.1");
    direct_routing(&mut walk)?;
    Ok(())
}

/// `ifconfig`: cni0 with the gateway's address and flannel.1 with the subnet's, both with room for the outer headers.
fn configured_by_flannel(walk: &Walk) -> Result<()> {
    let master = walk.nodes()[0];
    ensure_shows(master, "ip addr show dev cni0", &["mtu 1450", "inet 10.244.0.1/24"])?;
    ensure_shows(master, "ip addr show dev flannel.1", &["mtu 1450", "inet 10.244.0.0/32 scope global"])?;
    ensure_shows(master, "ip link show dev ens192", &["mtu 1500"])?;
    ensure_shows(master, &format!("ip link show dev {}", walk.pods[0].port()), &["mtu 1450", "master cni0"])
}

/// The mode vxlan: routes by flannel.1, and tcpdump at each station of the pings.
fn vxlan(walk: &Walk) -> Result<()> {
    walk.ensure_routes(
        "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
    )?;
    let pings = walk.pings();
    // `tcpdump -i cni0 -nn icmp`: requests and replies of the pods. ICMP takes no shortcut.
    let bridge = pings.icmp("cni0")?;
    ensure!(bridge == pings.both_ways(), "on cni0: {bridge:?}");
    // `tcpdump -i ens192 -nn icmp` prints nothing, and `tcpdump -i ens192 -nn host 172.16.1.102` the outer packets.
    pings.ensure_encapsulated(UPLINK, NODE1, NODE2)
}

/// The mode directrouting: routes through the other nodes once flannel has been restarted, and pings without a tunnel.
fn direct_routing(walk: &mut Walk) -> Result<()> {
    walk.etcd.configure(DIRECT)?;
    // "kubectl edit" alone changes nothing with flannel, so the text restarts everything.
    walk.agents.iter_mut().try_for_each(|agent| agent.restart().map(drop))?;
    walk.ensure_routes(
        "10.244.1.0/24 via 172.16.1.101 dev ens192",
        "10.244.2.0/24 via 172.16.1.102 dev ens192",
    )?;
    walk.wait_connected()?;
    // `tcpdump -i ens192 -nn icmp` now shows the pods' packets themselves.
    walk.pings().ensure_direct(UPLINK)
}
