//! "Flannel原理": containers of Docker on two nodes, first with host-gw, then with vxlan.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::docker::Container;
use flannel_tests::etcd::PREFIX;
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, Docker, Etcd, Host as _, Node, TestResult, eventually};

use super::{ensure_shows, rename_uplinks};
use crate::inspect;
use crate::network::docker::start_docker;
use crate::overlay::Streams;

const SOON: Duration = Duration::from_secs(10);

/// The text's master and minion, each with a container. Fields are in the order of their drops.
struct Walk {
    containers: Vec<Container>,
    _dockers: Vec<Docker>,
    agents: Vec<Agent>,
    etcd: Etcd,
    cluster: Cluster,
}

impl Walk {
    /// Starts flannel and Docker on both nodes, which have these subnets.
    fn start(cluster: Cluster, config: &str, leases: [(&str, Ipv4Addr); 2]) -> Result<Self> {
        let etcd = cluster.start_etcd()?;
        etcd.configure(config)?;
        for (subnet, node) in leases {
            etcd.put(&format!("{PREFIX}/subnets/{subnet}-24"), &format!(r#"{{"PublicIP":"{node}"}}"#))?;
        }
        let agents = cluster.start_agents(&etcd)?;
        let dockers = cluster.nodes().iter().map(start_docker).collect::<Result<Vec<_>>>()?;
        let containers = dockers.iter().map(Docker::start_web_server).collect::<Result<_>>()?;
        let walk = Self { containers, _dockers: dockers, agents, etcd, cluster };
        eventually("pod1 reaches pod3", SOON, || ping(&walk.containers[0], walk.containers[1].ip()))?;
        Ok(walk)
    }

    /// Returns master and minion.
    fn nodes(&self) -> [&Node; 2] {
        let [master, minion] = self.cluster.nodes() else { unreachable!("two nodes") };
        [master, minion]
    }
}

#[test]
fn the_walk_through_host_gw_and_vxlan_works_as_written() -> TestResult {
    host_gw()?;
    let mut walk = vxlan()?;
    devices(&walk)?;
    path_between_pods(&walk)?;
    path_to_the_outside(&walk)?;
    restart(&mut walk)?;
    Ok(())
}

/// "Host-GW": `ip route list` has the other node's subnet behind that node's address on eth0.
fn host_gw() -> Result<()> {
    let nodes = [[192, 168, 0, 1], [192, 168, 0, 200]].map(Ipv4Addr::from);
    let cluster = Cluster::segment(2)?;
    rename_uplinks(&cluster, "eth0", nodes[0])?;
    cluster.nodes()[1].netns().ip(&[
        "addr del 192.168.0.2/24 dev eth0",
        "addr add 192.168.0.200/24 dev eth0",
        "route add default via 192.168.0.254 dev eth0 proto static metric 100",
    ])?;
    let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}"#;
    let walk = Walk::start(cluster, config, [("10.1.15.0", nodes[0]), ("10.1.20.0", nodes[1])])?;
    // The text's line for docker0 has the node's address as source. The kernel takes docker0's own.
    ensure_shows(
        walk.nodes()[0],
        "ip route list",
        &[
            "default via 192.168.0.254 dev eth0 proto static metric 100",
            "10.1.20.0/24 via 192.168.0.200 dev eth0",
            "10.1.15.0/24 dev docker0 proto kernel scope link src 10.1.15.1",
        ],
    )
}

fn vxlan() -> Result<Walk> {
    let cluster = Cluster::segment(2)?;
    let nodes = [cluster.nodes()[0].ip(), cluster.nodes()[1].ip()];
    let config = r#"{"Network":"172.16.0.0/16","Backend":{"Type":"vxlan"}}"#;
    Walk::start(cluster, config, [("172.16.99.0", nodes[0]), ("172.16.57.0", nodes[1])])
}

/// `ip -d link show` on both nodes. The tools of today name the port range `srcport` and the port `dstport`.
fn devices(walk: &Walk) -> Result<()> {
    for node in walk.nodes() {
        let vxlan = format!("vxlan id 1 local {} dev eth0", node.ip());
        let device = "<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN mode DEFAULT group default";
        ensure_shows(
            node,
            "ip -d link show flannel.1",
            &[device, "brd ff:ff:ff:ff:ff:ff promiscuity 0", &vxlan, "port 0 0", "nolearning", "ageing 300"],
        )?;
    }
    Ok(())
}

/// "pod1访问pod3的关键路径": from docker0 by route, neighbour and FDB entry to the minion.
fn path_between_pods(walk: &Walk) -> Result<()> {
    let [master, minion] = walk.nodes();
    let mac = inspect::link(minion, "flannel.1")?.mac;
    // flannel 0.7 had one route for the network, 172.16.0.0/16 dev flannel.1. Since 0.8 it has one for each node.
    let routes = ["172.16.99.0/24 dev docker0 proto kernel scope link src 172.16.99.1"];
    ensure_shows(master, "ip route", &routes)?;
    ensure_shows(master, "ip route", &["172.16.57.0/24 via 172.16.57.0 dev flannel.1 onlink"])?;
    // The kernel asks user space for a neighbour that it does not know, three times.
    let solicit = master
        .netns()
        .run(|| Ok(std::fs::read_to_string("/proc/sys/net/ipv4/neigh/flannel.1/app_solicit")?))?;
    ensure!(solicit.trim() == "3", "app_solicit is {solicit}");
    // The datastore has the answer. Values have had the VNI, too, since flannel 0.12.
    let keys = walk.etcd.ctl(&format!("get --prefix --keys-only {PREFIX}/subnets"))?;
    let keys: Vec<_> = keys.split_whitespace().collect();
    ensure!(
        keys == ["/coreos.com/network/subnets/172.16.57.0-24", "/coreos.com/network/subnets/172.16.99.0-24"],
        "{keys:?}"
    );
    let value = walk.etcd.ctl(&format!("get --print-value-only {PREFIX}/subnets/172.16.57.0-24"))?;
    let value: serde_json::Value = serde_json::from_str(&value)?;
    ensure!(
        value["PublicIP"] == minion.ip().to_string().as_str() && value["BackendType"] == "vxlan",
        "{value}"
    );
    ensure!(value["BackendData"]["VtepMAC"] == mac.as_str(), "{value}");
    // "L3 MISS": with the route of flannel 0.7 the kernel asks for the pod itself, and gets the minion's MAC.
    let pod = walk.containers[1].ip();
    master.netns().ip(&[format!("route add {pod}/32 dev flannel.1 src 172.16.99.0")])?;
    ping(&walk.containers[0], pod)?;
    ensure_shows(master, &format!("ip neighbour show {pod}"), &[&format!("dev flannel.1 lladdr {mac}")])?;
    master.netns().ip(&[format!("route del {pod}/32 dev flannel.1")])?;
    let entry = format!("{mac} dst {} self permanent", minion.ip());
    ensure_shows(master, "bridge fdb show dev flannel.1", &[&entry])
}

/// "pod访问外网关键路径": without --ip-masq, Docker masquerades what its containers send.
fn path_to_the_outside(walk: &Walk) -> Result<()> {
    let rules = walk.nodes()[0].exec("iptables -t nat -nL POSTROUTING")?;
    let masquerades = rules.lines().any(|rule| {
        let words: Vec<_> = rule.split_whitespace().collect();
        matches!(words[..], ["MASQUERADE", _, "--", "172.16.99.0/24", "0.0.0.0/0", ..])
    });
    ensure!(masquerades, "Docker does not masquerade: {rules}");
    Ok(())
}

/// "zero-downtime restart": a restart does not disturb flows. Neighbours no longer time out, as the text warns.
fn restart(walk: &mut Walk) -> Result<()> {
    let streams = Streams::between(&walk.containers[0], &walk.containers[1])?;
    walk.agents.iter_mut().try_for_each(|agent| agent.term().map(drop))?;
    ensure_shows(walk.nodes()[0], "ip neighbour show dev flannel.1", &["172.16.57.0 lladdr", "PERMANENT"])?;
    walk.agents.iter_mut().try_for_each(|agent| agent.restart().map(drop))?;
    streams.ensure_whole()
}
