//! Agents in containers without privileges: what they can do with each set of capabilities, and what they say.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::ping;
use flannel_tests::{AgentBuilder, Cluster, Node, TestResult, Topology, eventually};

use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{NETWORK, Overlay, lines_of};

const SOON: Duration = Duration::from_secs(10);
/// The setting of the connection tracker that the flow cache needs.
const LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";
/// What flannel's own manifest gives.
const STOCK: [&str; 2] = ["net_admin", "net_raw"];
/// What the agent needs for everything.
pub(crate) const FULL: [&str; 4] = ["net_admin", "net_raw", "bpf", "perfmon"];

/// A container, and what an agent does in it.
struct Container {
    description: &'static str,
    capabilities: &'static [&'static str],
    /// A BPF filesystem is mounted into it.
    bpffs: bool,
    /// The node's connection tracker is set for the flow cache.
    liberal: bool,
    /// Programs on the uplink and the vxlan device.
    programs: usize,
    /// Programs on the pod's port: the flow cache is on.
    pod_programs: usize,
    /// Parts of the only warning; none if there must be no warning.
    warning: &'static [&'static str],
}

const CONTAINERS: [Container; 5] = [
    Container {
        description: "flannel's own manifest",
        capabilities: &STOCK,
        bpffs: false,
        liberal: false,
        programs: 0,
        pod_programs: 0,
        warning: &["BPF is not available", "CAP_BPF and CAP_PERFMON", "no BPF filesystem"],
    },
    Container {
        description: "flannel's own capabilities and a BPF filesystem",
        capabilities: &STOCK,
        bpffs: true,
        liberal: true,
        programs: 0,
        pod_programs: 0,
        warning: &["BPF is not available", "CAP_BPF and CAP_PERFMON"],
    },
    Container {
        description: "BPF without PERFMON",
        capabilities: &["net_admin", "net_raw", "bpf"],
        bpffs: true,
        liberal: true,
        programs: 0,
        pod_programs: 0,
        warning: &["BPF is not available", "CAP_PERFMON"],
    },
    Container {
        description: "all capabilities that are needed",
        capabilities: &FULL,
        bpffs: true,
        liberal: true,
        programs: 3,
        pod_programs: 2,
        warning: &[],
    },
    Container {
        description: "all capabilities on a node that was not prepared",
        capabilities: &FULL,
        bpffs: true,
        liberal: false,
        programs: 3,
        pod_programs: 0,
        warning: &["host stack", LIBERAL, "flannel-agent prepare-node"],
    },
];

impl Container {
    fn contain(&self, agent: AgentBuilder) -> AgentBuilder {
        let agent = agent.with_capabilities(self.capabilities).read_only_sysctls().arg("--ip-masq");
        if self.bpffs { agent } else { agent.without_bpffs().arg("--bpffs=/sys/kernel") }
    }

    /// Starts two nodes with such agents, prepared or not.
    fn start(&self) -> Result<Overlay> {
        let cluster = Cluster::build(Topology::segment(2))?;
        for node in cluster.nodes() {
            // A rule that tracks connections makes the setting exist.
            node.exec("iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP")?;
            set_liberal(node, self.liberal)?;
        }
        Overlay::launch_on(NETWORK, cluster, &["--dataplane=auto"; 2], 1, |agent| self.contain(agent))
    }
}

/// Sets the connection tracker from outside of the container.
fn set_liberal(node: &Node, liberal: bool) -> Result<()> {
    node.exec(&format!("sysctl -qw {LIBERAL}={}", u8::from(liberal)))?;
    Ok(())
}

#[test]
fn an_agent_without_privileges_does_what_its_capabilities_allow_and_says_what_is_missing_in_one_line()
-> TestResult {
    for container in CONTAINERS {
        let description = container.description;
        let overlay = container.start()?;
        let (one, other) = overlay.two_pods();
        eventually(description, SOON, || ping(one, other.ip()).and(ping(other, one.ip())))?;
        for (node, agent) in overlay.nodes().iter().zip(&overlay.agents) {
            let warnings = lines_of(&agent.log(), "WARN");
            let expected = usize::from(!container.warning.is_empty());
            assert_eq!(warnings.len(), expected, "{description}: {warnings:#?}");
            for part in container.warning {
                assert!(warnings[0].contains(part), "{description}: no {part:?} in {}", warnings[0]);
            }
            assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0], "{description}");
            let infos = lines_of(&agent.log(), "INFO");
            assert!(!infos.iter().any(|line| line.contains("cannot")), "{description}: {infos:#?}");
            let solicit = node.exec("cat /proc/sys/net/ipv4/neigh/flannel.1/app_solicit")?;
            assert_eq!(solicit, "3\n", "{description}: the kernel asks for neighbours");
            let programs = [UPLINK, DEVICE].map(|interface| inspect::programs(node, interface));
            let programs = programs.into_iter().collect::<Result<Vec<_>>>()?.concat();
            assert_eq!(programs.len(), container.programs, "{description}: {programs:?}");
            if container.bpffs && container.programs > 0 {
                inspect::attached_all(node, container.programs + container.pod_programs)?;
            }
        }
    }
    Ok(())
}

#[test]
fn an_agent_without_privileges_follows_the_connection_trackers_setting() -> TestResult {
    let overlay = CONTAINERS[4].start()?;
    let (node, agent) = (&overlay.nodes()[0], &overlay.agents[0]);
    for (liberal, programs, warnings) in [(false, 3, 1), (true, 5, 1), (false, 3, 2), (true, 5, 2)] {
        set_liberal(node, liberal)?;
        eventually("the programs are at pods' ports while the setting is 1", SOON, || {
            let attached = inspect::attached(node)?;
            ensure!(attached.len() == programs, "liberal {liberal}: {:?}", attached.keys());
            let warned = lines_of(&agent.log(), "WARN");
            ensure!(warned.len() == warnings, "liberal {liberal}: {warned:#?}");
            Ok(())
        })?;
    }
    Ok(())
}
