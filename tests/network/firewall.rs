//! Firewall rules and the blackhole route: written as by flanneld, repaired, and removed.

mod blackhole;
mod cleanup;
mod locked;
mod nftables;
mod obstacles;
mod quiet;
mod repair;
mod rules;
pub(crate) mod tools;
mod traffic;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::wait::patiently;
use flannel_tests::{Agent, Cluster, Datastore as _, LocalStore, Node, Pod, TestResult, eventually};

const CLUSTER: &str = "10.5.0.0/16";
const IPTABLES: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const NFTABLES: &str = r#"{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
/// Time limit for a repair. The agent checks its rules every second.
const SOON: Duration = Duration::from_secs(5);
/// Time in which the agent checks its rules more than once.
const LOOKS: Duration = Duration::from_millis(2500);
/// Rules of another program in the chains that jump to flannel's.
const FOREIGN: &str = "*nat\n\
    -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
    COMMIT\n\
    *filter\n\
    -A FORWARD -i docker0 -j ACCEPT\n\
    COMMIT\n";

/// Nodes with reserved subnets: the first has 10.5.1.0/24, and so on. Fields are in the order of their drops.
struct Bed {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    store: LocalStore,
    cluster: Cluster,
}

impl Bed {
    fn new(nodes: usize, config: &str) -> Result<Self> {
        let cluster = Cluster::segment(nodes)?;
        let store = cluster.local_store("leases")?;
        store.configure(config)?;
        for (node, number) in cluster.nodes().iter().zip(1..) {
            store.put(&format!("10.5.{number}.0-24"), &format!(r#"{{"PublicIP":"{}"}}"#, node.ip()))?;
        }
        Ok(Self { pods: Vec::new(), agents: Vec::new(), store, cluster })
    }

    /// [`Bed::new`] with an agent on every node.
    fn started(nodes: usize, config: &str, flags: &[&str]) -> Result<Self> {
        let mut bed = Self::new(nodes, config)?;
        bed.start(flags)?;
        Ok(bed)
    }

    fn start(&mut self, flags: &[&str]) -> Result<()> {
        self.agents = self.cluster.start_agents_with(&self.store, |agent| {
            flags.iter().fold(agent.arg("--iptables-resync=1"), |agent, flag| agent.arg(*flag))
        })?;
        Ok(())
    }

    /// Restarts the first node's agent. These flags replace those with the same names.
    fn restart(&mut self, flags: &[&str]) -> TestResult {
        self.agents[0].term()?;
        self.agents[0].restart_with(|args| {
            let name = |flag: &str| flag.split('=').next().map(str::to_owned);
            args.retain(|arg| !flags.iter().any(|flag| name(flag) == name(arg)));
            args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        })?;
        Ok(())
    }

    fn node(&self, node: usize) -> &Node {
        &self.cluster.nodes()[node]
    }

    /// Adds one pod to each node, and waits until the nodes know each other.
    fn add_pods(&mut self) -> TestResult {
        self.pods = self.cluster.one_pod_each()?;
        let others: Vec<_> =
            (1..=self.cluster.nodes().len()).map(|number| format!("10.5.{number}.0")).collect();
        patiently("the nodes know each other", SOON, || {
            for (node, own) in self.cluster.nodes().iter().zip(&others) {
                let routes = node.exec("ip route show")?;
                let known =
                    others.iter().all(|other| other == own || routes.contains(&format!("{other}/24 via")));
                ensure!(known, "{} lacks a route: {routes}", node.name());
            }
            Ok(())
        })?;
        Ok(())
    }

    fn base(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 5, number, 0)
    }
}

/// Returns all rules of the tables nat and filter, as iptables prints them.
fn rules(node: &Node) -> Result<String> {
    Ok(node.exec("iptables -t nat -S")? + &node.exec("iptables -t filter -S")?)
}

/// Waits until these are the rules.
fn wait_for_rules(node: &Node, expected: &str) -> Result<()> {
    eventually("the rules are the expected ones", SOON, || {
        let rules = rules(node)?;
        ensure!(rules == expected, "{rules}\ninstead of\n{expected}");
        Ok(())
    })
}
