//! Nodes on which IPv6 is off for new devices. The agent's own device carries it.

use std::time::Duration;

use anyhow::ensure;
use flannel_tests::{Agent, Cluster, TestResult, eventually};

use super::{DEVICE, DUAL};
use crate::overlay::{ping_all_pairs, refusal};

const SOON: Duration = Duration::from_secs(10);
const OFF_BY_DEFAULT: (&str, &str) = ("net.ipv6.conf.default.disable_ipv6", "1");

#[test]
fn the_agent_switches_ipv6_on_for_its_device() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let [by_default, everywhere] = cluster.nodes() else { unreachable!("two nodes") };
    by_default.netns().set(&[OFF_BY_DEFAULT])?;
    // Only the uplink has it again.
    everywhere
        .netns()
        .set(&[("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv6.conf.eth0.disable_ipv6", "0")])?;
    everywhere.netns().ip(&[format!("addr add {}/64 dev eth0 nodad", everywhere.ip6())])?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(DUAL)?;
    let start = |node| Agent::builder(node).etcd(&etcd).start();
    let mut agents = [start(by_default)?, start(everywhere)?];
    for agent in &mut agents {
        agent.wait_ready()?;
    }
    // CNI plugins do so for their devices.
    for node in cluster.nodes() {
        node.netns().set(&[("net.ipv6.conf.default.disable_ipv6", "0")])?;
    }
    let pods = cluster.one_pod_each()?;
    let all_reach_all = || ping_all_pairs(&pods);
    eventually("the pods reach each other", SOON, all_reach_all)?;

    by_default.netns().set(&[(&format!("net/ipv6/conf/{DEVICE}/disable_ipv6"), "1")])?;
    eventually("the agent switches it on again", SOON, || {
        let addresses = by_default.exec(&format!("ip -6 addr show dev {DEVICE} scope global"))?;
        ensure!(addresses.contains("fd44:"), "{addresses}");
        all_reach_all()
    })?;
    Ok(())
}

#[test]
fn an_agent_that_may_not_switch_it_on_says_what_to_do() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    node.netns().set(&[OFF_BY_DEFAULT])?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(DUAL)?;
    let said = refusal(node, |agent| agent.etcd(&etcd).read_only_sysctls())?;
    let switches = ["net/ipv6/conf/default/disable_ipv6=0", "net/ipv6/conf/flannel-v6.1/disable_ipv6=0"];
    for switch in switches {
        assert!(said.contains(switch), "{said}");
    }
    assert_eq!(etcd.subnets()?, [], "a node that cannot carry IPv6 has taken a subnet");
    // What it says helps.
    node.netns().set(&switches.map(|switch| switch.split_once('=').unwrap_or_default()))?;
    Agent::builder(node).etcd(&etcd).read_only_sysctls().start()?.wait_ready()?;
    Ok(())
}
