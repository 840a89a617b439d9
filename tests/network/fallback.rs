//! Nodes without BPF: `--dataplane auto` falls back with one warning, `--dataplane bpf` fails.

use std::time::Duration;

use anyhow::Result;
use flannel_tests::traffic::{ping, tcp_transfer};
use flannel_tests::{AgentBuilder, Cluster, Etcd, TestResult};

use crate::inspect::{self, UPLINK};
use crate::overlay::{NETWORK, lines_of, refusal};

const END: Duration = Duration::from_secs(10);
/// Capabilities needed to load programs and mount file systems.
const FOR_BPF: [&str; 3] = ["sys_admin", "bpf", "perfmon"];

/// A reason why BPF is not available, and a part of the agent's message.
struct Lack {
    description: &'static str,
    impose: fn(AgentBuilder) -> AgentBuilder,
    message: &'static str,
}

const LACKS: [Lack; 2] = [
    Lack {
        description: "no privilege for BPF",
        impose: |agent| agent.without_capabilities(&FOR_BPF),
        message: "Operation not permitted",
    },
    Lack {
        description: "no place for a bpffs",
        impose: |agent| agent.without_bpffs().arg("--bpffs=/dev/null"),
        message: "/dev/null",
    },
];

fn bed() -> Result<(Etcd, Cluster)> {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    Ok((etcd, cluster))
}

#[test]
fn auto_falls_back_with_one_warning() -> TestResult {
    for Lack { description, impose, message } in LACKS {
        let (etcd, cluster) = bed()?;
        let agents = cluster.start_agents_with(&etcd, |agent| impose(agent).arg("--dataplane=auto"))?;
        let pods = cluster.one_pod_each()?;
        flannel_tests::eventually("the pods reach each other", END, || ping(&pods[0], pods[1].ip()))?;
        tcp_transfer(&pods[0], &pods[1], 4 << 20)?;
        for (agent, node) in agents.iter().zip(cluster.nodes()) {
            let warnings = lines_of(&agent.log(), "WARN");
            let [warning] = &warnings[..] else { panic!("{description}: not one warning: {warnings:#?}") };
            assert!(warning.contains("BPF is not available"), "{description}: {warning}");
            assert!(warning.contains(message), "{description}: {warning}");
            assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0], "{description}");
            assert_eq!(inspect::programs(node, UPLINK)?, [""; 0], "{description}");
        }
    }
    Ok(())
}

#[test]
fn dataplane_bpf_fails_instead_of_falling_back() -> TestResult {
    let (etcd, cluster) = bed()?;
    for (Lack { description, impose, message }, node) in LACKS.into_iter().zip(cluster.nodes()) {
        let error = refusal(node, |agent| impose(agent.etcd(&etcd)).arg("--dataplane=bpf"))?;
        assert!(
            error.contains("--dataplane bpf was asked for") && error.contains(message),
            "{description}: {error}"
        );
    }
    assert_eq!(etcd.subnets()?, [], "an agent that failed has taken a subnet");
    Ok(())
}
