//! Where BPF cannot be had: `auto` goes on without and says so once, `bpf` refuses.

use std::time::Duration;

use anyhow::Result;
use flannel_tests::traffic::{ping, tcp_transfer};
use flannel_tests::{Agent, AgentBuilder, Cluster, Etcd, TestResult};

use crate::inspect::{self, UPLINK};
use crate::overlay::{NETWORK, lines_of};

const END: Duration = Duration::from_secs(10);
/// What loading programs and mounting file systems take.
const FOR_BPF: [&str; 3] = ["sys_admin", "bpf", "perfmon"];

/// A reason why BPF cannot be had, and what the agent has to say of it.
struct Lack {
    description: &'static str,
    impose: fn(AgentBuilder) -> AgentBuilder,
    said: &'static str,
}

const LACKS: [Lack; 2] = [
    Lack {
        description: "no privilege for BPF",
        impose: |agent| agent.without_capabilities(&FOR_BPF),
        said: "Operation not permitted",
    },
    Lack {
        description: "no place for a bpffs",
        impose: |agent| agent.without_bpffs().arg("--bpffs=/dev/null"),
        said: "/dev/null",
    },
];

fn bed() -> Result<(Etcd, Cluster)> {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    Ok((etcd, cluster))
}

#[test]
fn auto_goes_on_with_one_warning() -> TestResult {
    for Lack { description, impose, said } in LACKS {
        let (etcd, cluster) = bed()?;
        let agents = cluster.start_agents_with(&etcd, |agent| impose(agent).arg("--dataplane=auto"))?;
        let pods = cluster.one_pod_each()?;
        flannel_tests::eventually("the pods reach each other", END, || ping(&pods[0], pods[1].ip()))?;
        tcp_transfer(&pods[0], &pods[1], 4 << 20)?;
        for (agent, node) in agents.iter().zip(cluster.nodes()) {
            let warnings = lines_of(&agent.log(), "WARN");
            let [warning] = &warnings[..] else { panic!("{description}: not one warning: {warnings:#?}") };
            assert!(warning.contains("BPF is not available"), "{description}: {warning}");
            assert!(warning.contains(said), "{description}: {warning}");
            assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0], "{description}");
            assert_eq!(inspect::programs(node, UPLINK)?, [""; 0], "{description}");
        }
    }
    Ok(())
}

#[test]
fn bpf_that_was_asked_for_is_not_replaced() -> TestResult {
    let (etcd, cluster) = bed()?;
    for (Lack { description, impose, said }, node) in LACKS.into_iter().zip(cluster.nodes()) {
        let mut agent = impose(Agent::builder(node).etcd(&etcd)).arg("--dataplane=bpf").start()?;
        assert_eq!(agent.wait_exit(END)?.code(), Some(1), "{description}");
        let errors = lines_of(&agent.log(), "ERROR");
        let [error] = &errors[..] else { panic!("{description}: not one error: {errors:#?}") };
        assert!(
            error.contains("--dataplane bpf was asked for") && error.contains(said),
            "{description}: {error}"
        );
    }
    assert_eq!(etcd.subnets()?, [], "a node that does not work has taken a subnet");
    Ok(())
}
