//! A network that is wider than what is leased of it, as flannel documents it. The rest has nodes and datastore.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, Etcd, NetNs, Node, Pod, TestResult, eventually};

use crate::inspect;
use crate::overlay::ping_all_pairs;

const SOON: Duration = Duration::from_secs(10);
/// Where the datastore is: two routers away from the nodes.
const STORE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 5);
/// Another host there, in the range.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 5);

/// Two nodes whose addresses are in the network, and an etcd server that they reach by their default routes alone.
struct Bed {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    etcd: Etcd,
    cluster: Cluster,
}

impl Bed {
    /// Starts an agent on each node, with this network and backend.
    fn start(network: &str, backend: &str) -> Result<Self> {
        let cluster = Cluster::segment(2)?;
        let fabric = cluster.fabric().context("a segment has a switch")?;
        connect(fabric, cluster.mgmt())?;
        for (node, number) in cluster.nodes().iter().zip(1..) {
            move_into_network(node, number)?;
        }
        let url = format!("http://{STORE}:2400");
        let etcd = cluster.start_etcd_with(Etcd::builder().client_url(&url))?;
        etcd.configure(&format!(r#"{{{network},"Backend":{{"Type":"{backend}"}}}}"#))?;
        let mut agents = Vec::new();
        for node in cluster.nodes() {
            agents.push(Agent::builder(node).arg(format!("--etcd-endpoints={url}")).start()?);
        }
        agents.iter_mut().try_for_each(|agent| agent.wait_ready().map(drop))?;
        let pods = cluster.one_pod_each()?;
        // flannel masquerades nothing inside the network, so the router has to know the pods.
        for (pod, number) in pods.iter().zip(1..) {
            fabric.ip(&[format!("route add {}/32 via 10.1.64.{number}", pod.ip())])?;
        }
        Ok(Self { pods, agents, etcd, cluster })
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes()[0]
    }

    fn ensure_connected(&self) -> Result<()> {
        eventually("the pods reach each other", SOON, || ping_all_pairs(&self.pods)).map(drop)
    }

    /// Fails unless the agents still hear of changes: a new lease is known to both nodes. It is a reservation outside the range.
    fn ensure_store_is_heard(&self, backend: &str) -> Result<()> {
        let peer = inspect::Peer { base: Ipv4Addr::new(10, 200, 77, 0), ..inspect::Peer::fictional(77) };
        let value = match backend {
            "udp" => r#"{"PublicIP":"10.1.64.77"}"#.to_owned(),
            "host-gw" => r#"{"PublicIP":"10.1.64.77","BackendType":"host-gw"}"#.to_owned(),
            _ => peer.value(),
        };
        self.etcd.put(&peer.key(), &value)?;
        for node in self.cluster.nodes() {
            eventually("a new lease is known", SOON, || {
                let routes = node.exec("ip -4 route show table main")?;
                ensure!(routes.contains("10.200.77.0/24"), "{routes}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Returns the prefixes that the node's kernel forbids.
    fn forbidden(&self, family: &str) -> Result<Vec<String>> {
        let routes = self.node().exec(&format!("ip {family} route show type unreachable"))?;
        let prefix = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        Ok(routes.lines().filter_map(prefix).collect())
    }
}

/// Joins the nodes' router to the management namespace, and gives that the hosts beyond.
fn connect(fabric: &NetNs, mgmt: &NetNs) -> Result<()> {
    fabric.ip(&[
        format!("link add far type veth peer name near netns {}", mgmt.name()),
        "link set far up".to_owned(),
        "addr add 172.31.0.1/30 dev far".to_owned(),
        "addr add 10.1.64.254/24 dev seg0".to_owned(),
        "route add 10.2.0.0/16 via 172.31.0.2".to_owned(),
        "route add 10.98.0.0/24 via 172.31.0.2".to_owned(),
    ])?;
    mgmt.ip(&[
        "link set near up".to_owned(),
        "addr add 172.31.0.2/30 dev near".to_owned(),
        format!("addr add {STORE}/32 dev lo"),
        format!("addr add {INSIDE}/32 dev lo"),
        "route add 10.0.0.0/8 via 172.31.0.1".to_owned(),
    ])
}

fn move_into_network(node: &Node, number: u8) -> Result<()> {
    node.netns().ip(&[
        format!("addr del {}/24 dev eth0", node.ip()),
        format!("addr add 10.1.64.{number}/24 dev eth0"),
        "route add default via 10.1.64.254 dev eth0".to_owned(),
    ])
}

const GUIDE: &str =
    r#""Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0""#;
/// The nodes' IPv6 addresses are in fd00:192::/32.
const DUAL: &str = r#""Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0","EnableIPv6":true,
    "IPv6Network":"fd00::/16","IPv6SubnetMin":"fd00:5000::","IPv6SubnetMax":"fd00:5fff:ffff:ffff::""#;
const PREFIXES: [&str; 8] = [
    "10.10.0.0/15",
    "10.12.0.0/14",
    "10.16.0.0/12",
    "10.32.0.0/11",
    "10.64.0.0/11",
    "10.96.0.0/15",
    "10.98.0.0/16",
    "10.99.0.0/24",
];

#[test]
fn a_network_may_have_the_nodes_and_the_datastore_outside_its_subnets() -> TestResult {
    for (network, backend) in [(DUAL, "vxlan"), (DUAL, "host-gw"), (GUIDE, "udp")] {
        let mut bed = Bed::start(network, backend).with_context(|| backend.to_owned())?;
        bed.ensure_connected()?;
        if backend != "udp" {
            assert_eq!(bed.forbidden("-4")?, PREFIXES, "{backend}");
            assert_eq!(bed.forbidden("-6")?, ["fd00:5000::/20"], "{backend}");
        }
        eventually("a pod reaches what is not leased", SOON, || ping(&bed.pods[0], STORE.into()))?;
        if backend == "vxlan" {
            let node = bed.node();
            assert_eq!(inspect::packets(node, Hook::PodEgress, Outcome::Unleased)?, 0);
            // An earlier version, or an earlier configuration, forbade more.
            node.netns().ip(&["route add unreachable 10.0.0.0/8 metric 4294967294"])?;
            bed.agents[0].restart()?;
            assert_eq!(bed.forbidden("-4")?, PREFIXES);
        }
        bed.ensure_store_is_heard(backend)?;
    }
    Ok(())
}

#[test]
fn what_other_routes_lead_to_is_not_forbidden() -> TestResult {
    let mut bed = Bed::start(GUIDE, "vxlan")?;
    let node = &bed.cluster.nodes()[0];
    let said = format!("{:#}", node.exec(&format!("ping -c 1 -W 5 {INSIDE}")).unwrap_err());
    assert!(said.contains("No route to host") || said.contains("Unreachable"), "{said}");
    node.netns().ip(&["route add 10.98.0.0/24 via 10.1.64.254"])?;
    node.exec(&format!("ping -c 1 -W 5 {INSIDE}"))?;
    // A network of all hosts: what the node itself is on is not forbidden.
    node.netns().ip(&["addr add 10.3.0.1/8 dev eth0"])?;
    bed.agents[0].restart()?;
    assert_eq!(bed.forbidden("-4")?, [""; 0]);
    bed.ensure_connected()?;
    Ok(())
}
