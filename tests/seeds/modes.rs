//! "k8s网络插件flannel模式剖析": three nodes with the uplink ens192, pods that ping each other, and tcpdump on the way.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::traffic::{Ping, PingAnswer, ping, ping_with};
use flannel_tests::{Agent, Capture, Cluster, Etcd, Node, Pod, TestResult, eventually};

use super::{ensure_shows, icmp, rename_uplinks};

const UPLINK: &str = "ens192";
const MASTER: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 100);
/// The text's `net-conf.json`. `SubnetMin` lets the first node have 10.244.0.0/24, as Kubernetes gives it.
const VXLAN: &str = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.0.0","Backend":{"Type":"vxlan"}}"#;
/// The same with the line that the text adds, in its spelling.
const DIRECT: &str = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.0.0",
    "Backend":{"Type":"vxlan","Directrouting":true}}"#;
const SOON: Duration = Duration::from_secs(10);
const PINGS: usize = 4;
/// ICMP types.
const REQUEST: &str = "8";
const REPLY: &str = "0";

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

    /// Pings node2's pod from node1's. Each reply has passed two routers, the nodes.
    fn pings(&self) -> Result<()> {
        for _ in 0..PINGS {
            let answer = ping_with(&self.pods[1], self.pods[2].ip(), &Ping::default())?;
            ensure!(
                matches!(answer, PingAnswer::Reply { ttl: Some(62), .. }),
                "not a reply of TTL 62: {answer:?}"
            );
        }
        Ok(())
    }

    /// Pings while capturing on an interface of node1, as the text does with tcpdump.
    fn captured(&self, interface: &str) -> Result<Capture> {
        let capture = Capture::start(self.nodes()[1].netns(), interface)?;
        self.pings()?;
        capture.stop()
    }

    /// Returns the ICMP packets of the pings between these two pods, in order.
    fn both_ways(&self) -> Vec<[String; 3]> {
        let (from, to) = (self.pods[1].ip().to_string(), self.pods[2].ip().to_string());
        let request = [from.clone(), to.clone(), REQUEST.to_owned()];
        std::iter::repeat_n([request, [to, from, REPLY.to_owned()]], PINGS).flatten().collect()
    }
}

#[test]
fn the_walk_through_flannels_modes_works_as_written() -> TestResult {
    let mut walk = Walk::start("--dataplane=bpf")?;
    configured_by_flannel(&walk)?;
    vxlan(&walk)?;
    // Requests leave flannel.1 by BPF before tcpdump on it would see them. Replies arrive through it.
    let shown = icmp(&walk.captured("flannel.1")?)?;
    let replies: Vec<_> = walk.both_ways().into_iter().filter(|[_, _, kind]| kind == REPLY).collect();
    assert_eq!(shown, replies, "on flannel.1");
    direct_routing(&mut walk)?;
    Ok(())
}

#[test]
fn on_the_floor_tcpdump_on_flannel_1_shows_both_ways_as_in_the_text() -> TestResult {
    let mut walk = Walk::start("--dataplane=netlink")?;
    configured_by_flannel(&walk)?;
    vxlan(&walk)?;
    assert_eq!(icmp(&walk.captured("flannel.1")?)?, walk.both_ways(), "on flannel.1");
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
    // `tcpdump -i ens192 -nn icmp` prints nothing: ICMP is inside of VXLAN.
    let uplink = walk.captured(UPLINK)?;
    ensure!(icmp(&uplink)?.is_empty(), "bare ICMP on the uplink: {:?}", icmp(&uplink)?);
    // `tcpdump -i cni0 -nn icmp`: requests and replies of the pods. ICMP takes no shortcut.
    let bridge = icmp(&walk.captured("cni0")?)?;
    ensure!(bridge == walk.both_ways(), "on cni0: {bridge:?}");
    // `tcpdump -i ens192 -nn host 172.16.1.102`: "IP 172.16.1.101.60617 > 172.16.1.102.8472: OTV, flags [I] (0x08),
    // overlay 0, instance 1", and in it the pod's packet.
    let fields = ["ip.src", "ip.dst", "udp.dstport", "vxlan.flags", "vxlan.vni", "icmp.type"];
    let outer = uplink.fields("vxlan && ip.addr == 172.16.1.102", &fields)?;
    let [pod1, pod2] = [walk.pods[1].ip(), walk.pods[2].ip()];
    let line = |from: &str, to: &str, inner: [String; 2], kind: &str| {
        let [source, destination] = inner;
        [
            format!("{from},{source}"),
            format!("{to},{destination}"),
            "8472".into(),
            "0x0800".into(),
            "1".into(),
            kind.into(),
        ]
    };
    let request = line("172.16.1.101", "172.16.1.102", [pod1.to_string(), pod2.to_string()], REQUEST);
    let reply = line("172.16.1.102", "172.16.1.101", [pod2.to_string(), pod1.to_string()], REPLY);
    let expected: Vec<_> = std::iter::repeat_n([request, reply], PINGS).flatten().collect();
    ensure!(outer == expected, "on the uplink: {outer:#?}");
    let ports = uplink.fields("vxlan && ip.src == 172.16.1.101", &["udp.srcport"])?;
    ensure!(ports.windows(2).all(|pair| pair[0] == pair[1]), "a flow has one outer port: {ports:?}");
    Ok(())
}

/// The mode directrouting: routes through the other nodes once flannel has been restarted, and pings without a tunnel.
fn direct_routing(walk: &mut Walk) -> Result<()> {
    walk.etcd.configure(DIRECT)?;
    // "kubectl edit" alone changes nothing, the text shows. It restarts everything.
    walk.ensure_routes(
        "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
    )?;
    walk.agents.iter_mut().try_for_each(|agent| agent.restart().map(drop))?;
    walk.ensure_routes(
        "10.244.1.0/24 via 172.16.1.101 dev ens192",
        "10.244.2.0/24 via 172.16.1.102 dev ens192",
    )?;
    walk.wait_connected()?;
    // `tcpdump -i ens192 -nn icmp` now shows the pods' packets themselves.
    let uplink = walk.captured(UPLINK)?;
    ensure!(icmp(&uplink)? == walk.both_ways(), "on the uplink: {:?}", icmp(&uplink)?);
    ensure!(uplink.count("vxlan")? == 0, "a packet is encapsulated");
    let first = uplink.frames().first().context("no frame")?;
    ensure!(first.outgoing, "the first packet leaves node1");
    Ok(())
}
