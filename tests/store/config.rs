//! Configurations that cannot be used: what is wrong is said, with key and value, and nothing crashes.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Agent, Cluster, Etcd, TestResult, eventually};

use crate::overlay::{NETWORK, lines_of};

const SOON: Duration = Duration::from_secs(10);

/// A configuration, and what has to be said of it.
struct Wrong {
    config: &'static str,
    said: &'static [&'static str],
}

/// What a person can correct in etcd while the agent waits.
const CORRECTABLE: [Wrong; 10] = [
    Wrong { config: "Network: 10.5.0.0/16", said: &["not a JSON object"] },
    Wrong { config: "", said: &["not a JSON object"] },
    Wrong { config: r#"{"Backend":{"Type":"vxlan"}}"#, said: &["Network is missing", "10.244.0.0/16"] },
    Wrong { config: r#"{"Network":"10.5.0.0"}"#, said: &["Network", "10.5.0.0"] },
    Wrong { config: r#"{"Network":"10.5.0.0/16","SubnetLen":99}"#, said: &["SubnetLen", "99"] },
    Wrong { config: r#"{"Network":"10.5.0.0/16","Backend":{}}"#, said: &["Type is missing"] },
    Wrong {
        config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"carrier-pigeon"}}"#,
        said: &["carrier-pigeon", "vxlan, host-gw, udp or alloc"],
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

/// What is right as flannel's configuration, and not served by this version.
const NOT_SERVED: [Wrong; 1] = [Wrong {
    config: r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48"}"#,
    said: &["EnableIPv6", "udp", "IPv4 only"],
}];

/// Fails unless the agent has had one thing to complain of, in these words.
fn ensure_said(agent: &Agent, said: &[&str]) -> Result<()> {
    let errors = lines_of(&agent.log(), "ERROR");
    ensure!(errors.len() == 1, "not one line: {errors:#?}");
    for words in said {
        ensure!(errors[0].contains(words), "no {words:?} in {}", errors[0]);
    }
    Ok(())
}

fn bed(n: usize) -> Result<(Etcd, Cluster)> {
    let cluster = Cluster::segment(n)?;
    Ok((cluster.start_etcd()?, cluster))
}

#[test]
fn a_wrong_configuration_is_named_and_the_agent_comes_up_once_it_is_right() -> TestResult {
    let key = format!("{PREFIX}/config");
    let (etcd, cluster) = bed(CORRECTABLE.len())?;
    for (Wrong { config, said }, node) in CORRECTABLE.into_iter().zip(cluster.nodes()) {
        etcd.configure(config)?;
        let mut agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=netlink").start()?;
        eventually(config, SOON, || ensure_said(&agent, &[said, &[&key]].concat()))?;
        agent.ensure_running()?;
        etcd.configure(NETWORK)?;
        agent.wait_ready()?;
    }
    Ok(())
}

#[test]
fn what_this_version_does_not_serve_ends_it() -> TestResult {
    let (etcd, cluster) = bed(1)?;
    for Wrong { config, said } in NOT_SERVED {
        etcd.configure(config)?;
        std::fs::write(cluster.nodes()[0].dir().join("agent.log"), "")?;
        let mut agent = Agent::builder(&cluster.nodes()[0]).etcd(&etcd).start()?;
        assert_eq!(agent.wait_exit(SOON)?.code(), Some(1), "{config}");
        ensure_said(&agent, said)?;
    }
    assert_eq!(etcd.subnets()?, [], "a node that does not work has taken a subnet");
    Ok(())
}
