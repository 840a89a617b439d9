//! From flanneld to the agent and back, node by node, with everything that the other daemon leaves behind.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::flanneld::{self, DEVICE, Lease};
use flannel_tests::subnet_env::Net;
use flannel_tests::traffic::{Steady, ping, tcp_transfer};
use flannel_tests::{Agent, Cluster, Etcd, Node, Pod, TestResult, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{ensure_whole, lines_of, ping_all_pairs};

const NETWORK: Net<Ipv4Addr> = Net { addr: Ipv4Addr::new(10, 244, 0, 0), len: 16 };
const CONFIG: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
const NODES: usize = 3;
const SOON: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(5);
/// Seconds until a lease of flanneld ends.
const DAY: u32 = 86_400;

/// Nodes with flanneld and a pod each. Fields are in the order of their drops.
struct Bed {
    pods: Vec<Pod>,
    leases: Vec<Lease>,
    etcd: Etcd,
    cluster: Cluster,
}

impl Bed {
    /// Sets all nodes up as flanneld does.
    fn start() -> Result<Self> {
        let cluster = Cluster::segment(NODES)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(CONFIG)?;
        let nodes = cluster.nodes().iter().zip(1..);
        let leases = nodes.map(|(node, number)| flanneld::start(node, NETWORK, subnet(number), None));
        let leases = leases.collect::<Result<Vec<_>>>()?;
        let mut bed = Self { pods: Vec::new(), leases, etcd, cluster };
        for lease in &bed.leases {
            bed.etcd.kv().put_for(&key(lease), &lease.value(), DAY)?;
        }
        (0..NODES).try_for_each(|number| flanneld::add(bed.node(number), bed.others(number)))?;
        bed.pods = bed.cluster.one_pod_each()?;
        ping_all_pairs(&bed.pods)?;
        Ok(bed)
    }

    fn node(&self, number: usize) -> &Node {
        &self.cluster.nodes()[number]
    }

    fn others(&self, number: usize) -> impl Iterator<Item = &Lease> {
        self.leases.iter().enumerate().filter(move |(other, _)| *other != number).map(|(_, lease)| lease)
    }

    /// Starts an agent in place of flanneld, and waits until it has all entries.
    fn change_to_agent(&self, number: usize) -> Result<Agent> {
        let node = self.node(number);
        let mut agent =
            Agent::builder(node).etcd(&self.etcd).arg("--ip-masq").arg("--dataplane=bpf").start()?;
        let env = agent.wait_ready()?;
        let own = &self.leases[number].subnet;
        ensure!(env.subnet.is_some_and(|subnet| subnet.addr.to_bits() == own.addr.to_bits() | 1), "{env:?}");
        let peers: Vec<_> = self.others(number).map(peer).collect();
        eventually("the agent knows the others", SOON, || inspect::ensure_knows(node, &peers))?;
        Ok(agent)
    }

    /// Ends the agent and starts flanneld in its place: first the agent runs without BPF, which detaches the programs.
    fn change_to_flanneld(&mut self, number: usize, agent: &mut Agent) -> Result<()> {
        agent.restart_with(|args| {
            for arg in args.iter_mut().filter(|arg| *arg == "--dataplane=bpf") {
                "--dataplane=netlink".clone_into(arg);
            }
        })?;
        agent.term()?;
        self.restart_flanneld(number)
    }

    fn restart_flanneld(&mut self, number: usize) -> Result<()> {
        let Lease { subnet, mac, .. } = self.leases[number].clone();
        let lease = flanneld::start(self.node(number), NETWORK, subnet, Some(&mac))?;
        self.etcd.kv().put_for(&key(&lease), &lease.value(), DAY)?;
        flanneld::add(self.node(number), self.others(number))?;
        self.leases[number] = lease;
        Ok(())
    }

    /// Starts streams from each pod to the next one.
    fn streams(&self) -> Result<Vec<Steady>> {
        let next = self.pods.iter().cycle().skip(1);
        self.pods.iter().zip(next).map(|(from, to)| Steady::start(from, to, PACE)).collect()
    }
}

fn subnet(number: u8) -> Net<Ipv4Addr> {
    Net { addr: Ipv4Addr::new(10, 244, number, 0), len: 24 }
}

fn key(lease: &Lease) -> String {
    format!("{PREFIX}/subnets/{}", lease.name())
}

fn peer(lease: &Lease) -> Peer {
    let Lease { subnet, public_ip, mac } = lease.clone();
    Peer { base: subnet.addr, public_ip, mac }
}

/// Returns everything on a node that flanneld has made: device, entries and rules.
fn state(node: &Node) -> Result<String> {
    let mut state = String::new();
    for command in [
        &format!("ip -d link show dev {DEVICE}"),
        &format!("ip -4 addr show dev {DEVICE}"),
        "ip -4 route show type unicast",
        &format!("ip -4 neigh show dev {DEVICE}"),
        &format!("bridge fdb show dev {DEVICE}"),
        "iptables -t nat -S",
        "iptables -S",
    ] {
        let mut lines: Vec<_> = node.exec(command)?.lines().map(str::to_owned).collect();
        // The kernel lists entries in the order of its tables.
        if !command.starts_with("iptables") {
            lines.sort();
        }
        state.extend([command, "\n", &lines.join("\n"), "\n"]);
    }
    Ok(state)
}

#[test]
fn nodes_migrate_one_by_one_and_back_without_loss() -> TestResult {
    let mut bed = Bed::start()?;
    let before = (0..NODES).map(|number| state(bed.node(number))).collect::<Result<Vec<_>>>()?;
    let streams = bed.streams()?;
    let mut agents = Vec::new();
    for (number, before) in before.iter().enumerate() {
        agents.push(bed.change_to_agent(number)?);
        // Device, entries and rules are the same ones. Only the text of the lease is the agent's.
        assert_eq!(state(bed.node(number))?, *before, "node {number} with the agent");
        ping_all_pairs(&bed.pods)?;
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        tcp_transfer(&bed.pods[from], &bed.pods[to], 8 << 20)?;
        assert!(inspect::carried(bed.node(from))?.0 > 0, "BPF carries nothing on node {from}");
        assert_eq!(lines_of(&agents[from].log(), "WARN"), [""; 0]);
    }
    for (number, agent) in agents.iter_mut().enumerate() {
        bed.change_to_flanneld(number, agent)?;
        assert_eq!(state(bed.node(number))?, before[number], "node {number} with flanneld again");
        assert!(!inspect::pins(bed.node(number))?.path("").exists(), "programs are left");
        ping_all_pairs(&bed.pods)?;
    }
    for stream in streams {
        ensure_whole(&stream.stop()?)?;
    }
    Ok(())
}

#[test]
fn flanneld_replaces_a_device_that_the_agent_has_made_and_peers_reach_it_at_once() -> TestResult {
    let mut bed = Bed::start()?;
    // As after a reboot: without a device, the agent makes its own.
    bed.node(0).netns().ip(&[format!("link del {DEVICE}")])?;
    let mut agent = bed.change_to_agent(0)?;
    assert_ne!(inspect::link(bed.node(0), DEVICE)?.mac, bed.leases[0].mac, "a new device with a new MAC");
    bed.leases[0].mac = inspect::link(bed.node(0), DEVICE)?.mac;
    for number in 1..NODES {
        flanneld::add(bed.node(number), bed.others(number))?;
    }
    ping_all_pairs(&bed.pods)?;
    let made = inspect::link(bed.node(0), DEVICE)?;
    bed.change_to_flanneld(0, &mut agent)?;
    let now = inspect::link(bed.node(0), DEVICE)?;
    assert!(
        now.index != made.index && now.mac == made.mac,
        "another device with the same MAC: {now:?}, {made:?}"
    );
    ping_all_pairs(&bed.pods)?;
    Ok(())
}

#[test]
fn what_flanneld_left_behind_is_put_right() -> TestResult {
    let bed = Bed::start()?;
    let node = bed.node(0);
    let before = state(node)?;
    // A node that is gone, and a peer's MAC of earlier: flanneld forgets their entries if they change while it is down.
    let gone =
        Lease { subnet: subnet(77), public_ip: [192, 168, 64, 77].into(), mac: "2a:f1:a0:00:00:77".into() };
    flanneld::add(node, [&gone])?;
    let old = Lease { mac: "2a:f1:a0:00:00:99".into(), ..bed.leases[1].clone() };
    node.exec(&format!("bridge fdb add {} dev {DEVICE} dst {} self permanent", old.mac, old.public_ip))?;
    // A route of another administrator stays.
    node.netns().ip(&["route add 10.99.0.0/16 via 192.168.64.254 proto static"])?;
    assert_ne!(state(node)?, before);
    let _agent = bed.change_to_agent(0)?;
    let foreign = "10.99.0.0/16 via 192.168.64.254 dev eth0 proto static";
    assert!(node.exec("ip route")?.contains(foreign), "the administrator's route is gone");
    node.netns().ip(&["route del 10.99.0.0/16"])?;
    assert_eq!(state(node)?, before);
    ping(&bed.pods[0], bed.pods[1].ip()).context("a node that was put right")?;
    Ok(())
}
