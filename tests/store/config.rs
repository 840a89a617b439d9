//! Configurations that cannot be used: the agent logs key and value of the problem and does not crash.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Agent, Cluster, Etcd, TestResult, eventually};

use crate::overlay::{NETWORK, lines_of, refusal};

const SOON: Duration = Duration::from_secs(10);

/// A wrong configuration, and parts of the message about it.
struct Wrong {
    config: &'static str,
    said: &'static [&'static str],
}

/// Configurations that a person can correct in etcd while the agent waits.
const CORRECTABLE: [Wrong; 10] = [
    Wrong { config: "Network: 10.5.0.0/16", said: &["not a JSON object"] },
    Wrong { config: "", said: &["not a JSON object"] },
    Wrong { config: r#"{"Backend":{"Type":"vxlan"}}"#, said: &["Network is missing", "10.244.0.0/16"] },
    Wrong { config: r#"{"Network":"10.5.0.0"}"#, said: &["Network", "10.5.0.0"] },
    Wrong { config: r#"{"Network":"10.5.0.0/16","SubnetLen":99}"#, said: &["SubnetLen", "99"] },
    Wrong { config: r#"{"Network":"10.5.0.0/16","Backend":{}}"#, said: &["Type is missing"] },
    Wrong {
        config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"carrier-pigeon"}}"#,
        said: &["carrier-pigeon", "vxlan, host-gw, udp, alloc, aws-vpc, gce or ali-vpc"],
    },
    Wrong {
        config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#,
        said: &["VNI", "16777216"],
    },
    Wrong {
        config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Dataplane":"warp"}}"#,
        said: &["Backend.Dataplane", "warp", "auto, bpf or netlink"],
    },
    Wrong {
        config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","XDP":"offload"}}"#,
        said: &["Backend.XDP", "offload", "auto, native, generic or off"],
    },
];

/// Configurations that are valid for flannel and that this version does not support.
const NOT_SERVED: [Wrong; 1] = [Wrong {
    config: r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48"}"#,
    said: &["EnableIPv6", "udp", "IPv4 only"],
}];

/// Fails unless the agent has logged exactly one error.
fn only_error(agent: &Agent) -> Result<String> {
    let errors = lines_of(&agent.log(), "ERROR");
    let [error] = &errors[..] else { bail!("not one line: {errors:#?}") };
    Ok(error.clone())
}

/// Fails unless the error has all these parts.
fn ensure_said(error: &str, said: &[&str]) -> Result<()> {
    for words in said {
        ensure!(error.contains(words), "no {words:?} in {error}");
    }
    Ok(())
}

fn bed(n: usize) -> Result<(Etcd, Cluster)> {
    let cluster = Cluster::segment(n)?;
    Ok((cluster.start_etcd()?, cluster))
}

#[test]
fn a_wrong_configuration_is_logged_and_the_agent_starts_once_it_is_right() -> TestResult {
    let key = format!("{PREFIX}/config");
    let (etcd, cluster) = bed(CORRECTABLE.len())?;
    for (Wrong { config, said }, node) in CORRECTABLE.into_iter().zip(cluster.nodes()) {
        etcd.configure(config)?;
        let mut agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=netlink").start()?;
        eventually(config, SOON, || ensure_said(&only_error(&agent)?, &[said, &[&key]].concat()))?;
        agent.ensure_running()?;
        etcd.configure(NETWORK)?;
        agent.wait_ready()?;
    }
    Ok(())
}

#[test]
fn an_unsupported_configuration_ends_the_agent() -> TestResult {
    let (etcd, cluster) = bed(1)?;
    for Wrong { config, said } in NOT_SERVED {
        etcd.configure(config)?;
        let error = refusal(&cluster.nodes()[0], |agent| agent.etcd(&etcd))?;
        ensure_said(&error, said)?;
    }
    assert_eq!(etcd.subnets()?, [], "an agent that failed has taken a subnet");
    Ok(())
}
