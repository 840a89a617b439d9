//! Two networks on the same nodes, each with an agent of its own, as flannel documents: they leave each other alone.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_agent::dataplane::bpf::{counters, pins::Pins};
use flannel_common::outcome::{Hook, MetricsKey, Outcome};
use flannel_tests::agent::agent_binary;
use flannel_tests::traffic::{At, ping};
use flannel_tests::wait::throughout;
use flannel_tests::{
    Agent, AgentBuilder, Cluster, Datastore as _, LocalStore, NetNs, Node, SubnetEnv, TestResult, eventually,
};

use crate::inspect;
use crate::overlay::{Streams, lines_of};

/// Time limit until pods of a new network reach each other.
const JOINING: Duration = Duration::from_secs(10);
/// Time in which each agent, with `--iptables-resync=1`, checks its rules several times.
const SEVERAL_CHECKS: Duration = Duration::from_millis(3500);

/// One of the networks: 10.`N`.0.0/16 with VNI `N`, an agent and a pod on each node.
struct Network {
    number: u8,
    pods: Vec<NetNs>,
    agents: Vec<Agent>,
    _store: LocalStore,
}

impl Network {
    fn start(
        cluster: &Cluster,
        number: u8,
        nftables: bool,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        let name = format!("net{number}");
        let store = cluster.local_store(&name)?;
        store.configure(&format!(
            r#"{{"Network":"10.{number}.0.0/16","EnableNFTables":{nftables},"Backend":{{"Type":"vxlan","VNI":{number}}}}}"#
        ))?;
        for (node, subnet) in cluster.nodes().iter().zip(1..) {
            store
                .put(&format!("10.{number}.{subnet}.0-24"), &format!(r#"{{"PublicIP":"{}"}}"#, node.ip()))?;
        }
        let agents = cluster.start_agents_with(&store, |agent| {
            change(agent.for_network(&name).arg("--iptables-resync=1").arg("--ip-masq"))
        })?;
        let pods = cluster.nodes().iter().zip(1..).map(|(node, subnet)| plug(node, number, subnet));
        Ok(Self { number, pods: pods.collect::<Result<_>>()?, agents, _store: store })
    }

    fn pod(&self, node: usize) -> At<'_> {
        let subnet = u8::try_from(node + 1).unwrap();
        At { netns: &self.pods[node], ip: IpAddr::from([10, self.number, subnet, 2]) }
    }

    /// Starts a stream in each direction between the pods, once they reach each other and the programs are at their ports. The
    /// kernel drops packets at a port while it gets the clsact queue.
    fn streams(&self, nodes: &[Node]) -> Result<Streams> {
        let (one, other) = (self.pod(0), self.pod(1));
        eventually("pods reach each other", JOINING, || ping(&one, other.ip).and(ping(&other, one.ip)))?;
        eventually("programs see the pods' packets", JOINING, || {
            ping(&one, other.ip)?;
            nodes.iter().try_for_each(|node| {
                let seen = self.counted(node, |key| key.hook == Hook::PodEgress)?;
                ensure!(seen > 0, "none at the ports of {}", node.netns().name());
                Ok(())
            })
        })?;
        Streams::between(&one, &other)
    }

    /// Returns how many packets of this network the programs of a node have carried.
    fn carried(&self, node: &Node) -> Result<u64> {
        self.counted(node, |key| {
            matches!(key.outcome, Outcome::Encapsulated | Outcome::Decapsulated | Outcome::Delivered)
        })
    }

    /// Returns how many packets of this network the programs of a node have counted by these keys.
    fn counted(&self, node: &Node, keys: impl Fn(&MetricsKey) -> bool) -> Result<u64> {
        let counted = counters::read(&Pins::new(node.bpffs()?, self.number.into()))?;
        Ok(counted.iter().filter(|(key, _)| keys(key)).map(|(_, traffic)| traffic.packets).sum())
    }
}

/// Adds a pod behind a bridge of its network.
fn plug(node: &Node, network: u8, subnet: u8) -> Result<NetNs> {
    let pod = NetNs::new(&format!("pod{network}-{subnet}"))?;
    let gateway = Ipv4Addr::new(10, network, subnet, 1);
    node.netns().ip(&[
        format!("link add br{network} mtu 1450 type bridge"),
        format!("addr add {gateway}/24 dev br{network}"),
        format!("link set br{network} up"),
        format!("link add veth{network} mtu 1450 type veth peer name eth0 netns {}", pod.name()),
        format!("link set veth{network} master br{network} up"),
    ])?;
    pod.ip(&[
        "link set lo up".to_owned(),
        "link set eth0 mtu 1450 up".to_owned(),
        format!("addr add 10.{network}.{subnet}.2/24 dev eth0"),
        format!("route add default via {gateway}"),
    ])?;
    Ok(pod)
}

/// Returns all rules with their handles, which a rule that is written again does not keep. So does iptables, by its variant nft.
fn rules(node: &Node) -> Result<String> {
    node.exec("nft -a -s list ruleset")
}

fn cleanup(node: &Node, network: &str) -> Result<Output> {
    let mut command = node.netns().command(agent_binary()?);
    let file = node.dir().join(format!("{network}.env"));
    command.arg("cleanup").arg("--subnet-file").arg(file).arg("--bpffs").arg(node.bpffs()?);
    Ok(command.output()?)
}

/// Waits until the agents of all networks have seen the interfaces of this one. Without tcx they add a qdisc to each, and
/// meanwhile the kernel drops what leaves by it (`qdisc_graft`).
fn wait_seen(cluster: &Cluster, number: u8) -> Result<()> {
    let devices = [format!("br{number}"), format!("veth{number}"), format!("flannel.{number}")];
    eventually("interfaces have a clsact qdisc", JOINING, || {
        for (node, device) in cluster.nodes().iter().flat_map(|node| devices.iter().map(move |it| (node, it)))
        {
            let qdiscs = node.exec(&format!("tc qdisc show dev {device}"))?;
            ensure!(qdiscs.contains("clsact"), "{} of {}: {qdiscs}", device, node.name());
        }
        Ok(())
    })
}

fn live_side_by_side(
    nftables: bool,
    wait_seen: impl Fn(&Cluster, u8) -> Result<()>,
    change: impl Fn(AgentBuilder) -> AgentBuilder,
) -> Result<()> {
    let cluster = Cluster::segment(2)?;
    let first = Network::start(&cluster, 5, nftables, &change)?;
    wait_seen(&cluster, 5)?;
    let node = &cluster.nodes()[0];
    let streams = first.streams(cluster.nodes())?;
    let alone = rules(node)?;
    // The second network comes, lives, starts again, and goes.
    let mut second = Network::start(&cluster, 6, nftables, &change)?;
    wait_seen(&cluster, 6)?;
    let own = second.streams(cluster.nodes())?;
    let both = rules(node)?;
    for number in [5, 6] {
        ensure!(both.contains(&format!("10.{number}.0.0/16")), "no rules of network {number}: {both}");
    }
    throughout("no agent changes a rule", SEVERAL_CHECKS, || {
        let now = rules(node)?;
        ensure!(now == both, "{now}\ninstead of\n{both}");
        Ok(())
    })?;
    own.ensure_whole()?;
    for network in [&first, &second] {
        ensure!(network.carried(node)? > 100, "the floor carries network {}", network.number);
    }
    second.agents[0].restart()?;
    let own = second.streams(cluster.nodes())?;
    own.ensure_whole()?;
    let refused = cleanup(node, "net6")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains(&format!("(pid {})", second.agents[0].pid())),
        "{said}"
    );
    let unknown = cleanup(node, "net7")?;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(!unknown.status.success() && said.contains("does not say which network to remove"), "{said}");
    second.agents[0].term()?;
    let removed = cleanup(node, "net6")?;
    ensure!(removed.status.success(), "{removed:?}");
    let left = node.exec("ip link")? + &node.exec("ip route show table all")? + &rules(node)?;
    ensure!(!left.contains("flannel.6") && !left.contains("10.6.0.0/16"), "{left}");
    ensure!(left.contains("unreachable 10.5.0.0/16"), "{left}");
    let now = rules(node)?;
    ensure!(now == alone, "{now}\ninstead of\n{alone}");
    streams.ensure_whole()?;
    for agent in &first.agents {
        let problems = lines_of(&agent.log(), "ERROR");
        ensure!(problems.is_empty(), "{problems:#?}");
    }
    // No agent runs on the first node, and yet only the network of the file goes.
    let mut first = first;
    first.agents[0].term()?;
    let removed = cleanup(node, "net5")?;
    ensure!(removed.status.success(), "{removed:?}");
    ensure!(
        !node.exec("ip link")?.contains("flannel.") && !rules(node)?.contains("10.5.0.0"),
        "{}",
        rules(node)?
    );
    SubnetEnv::read(&cluster.nodes()[1].dir().join("net5.env"))?;
    Ok(())
}

/// One agent's pins are out of sight when it starts again, as beneath a BPF filesystem that was mounted over them.
#[test]
fn an_agent_that_does_not_see_its_pins_replaces_the_programs_of_its_own_network() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let start = |number| Network::start(&cluster, number, false, |agent| agent.arg("--dataplane=bpf"));
    let (_first, mut second) = (start(5)?, start(6)?);
    let node = &cluster.nodes()[0];
    let ids = |interface: &str| inspect::tcx_ids(node, interface);
    let places = ["flannel.5", "flannel.6", "eth0"];
    let settled = || -> Result<()> {
        let counts = places.map(&ids);
        let counts: Vec<_> = counts.into_iter().map(|ids| Ok(ids?.len())).collect::<Result<_>>()?;
        // Each agent checks what comes in by the other's device, too.
        ensure!(counts == [3, 3, 2] || !inspect::has_tcx()?, "{counts:?}");
        Ok(())
    };
    eventually("programs of both networks are attached", JOINING, settled)?;
    let before = places.map(&ids);
    let elsewhere = node.bpffs()?.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    second.agents[0].restart_with(|args| {
        args.retain(|arg| !arg.starts_with("--bpffs="));
        args.push(format!("--bpffs={}", elsewhere.display()));
    })?;
    eventually("there is one set of programs of each network", JOINING, settled)?;
    for ((place, before), of_the_first) in places.iter().zip(before).zip([2, 1, 1]) {
        let (before, now) = (before?, ids(place)?);
        let kept = before.iter().filter(|program| now.contains(program)).count();
        assert!(kept == of_the_first || !inspect::has_tcx()?, "{place}: {now:?} after {before:?}");
    }
    Ok(())
}

#[test]
fn two_networks_of_a_node_leave_each_other_alone() -> TestResult {
    live_side_by_side(false, |_, _| Ok(()), |agent| agent.arg("--dataplane=bpf"))?;
    Ok(())
}

#[test]
fn two_networks_share_the_tables_of_nftables() -> TestResult {
    live_side_by_side(true, |_, _| Ok(()), |agent| agent.arg("--dataplane=bpf"))?;
    Ok(())
}

#[test]
fn two_networks_share_an_uplink_without_tcx() -> TestResult {
    live_side_by_side(false, wait_seen, |agent| agent.arg("--dataplane=bpf").without_tcx())?;
    Ok(())
}
