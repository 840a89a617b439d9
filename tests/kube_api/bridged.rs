//! A node without br_netfilter: what a Service answers is bridged between pods, and does not pass iptables.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use flannel_tests::traffic::ping;
use flannel_tests::{Cluster, Datastore as _, TestResult};

use super::bed::NETWORK;
use crate::overlay::{lines_of, wait_logged};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const SETTING: &str = "net.bridge.bridge-nf-call-iptables";

#[test]
fn a_node_that_does_not_filter_bridged_packets_says_what_to_do() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.kube_store()?;
    store.configure(NETWORK)?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    let node = &cluster.nodes()[0];
    node.netns().set(&[(SETTING, "0")])?;
    let agents = cluster.start_agents_with(&store, |agent| agent.arg("--iptables-resync=1"))?;
    let pods = cluster.pods_each(2)?;
    let [pod, endpoint] = &pods[0][..] else { panic!("not two pods") };
    // As kube-proxy translates it. Its rules are for TCP and UDP; an echo takes the same way, and its loss shows at once.
    node.exec(&format!(
        "iptables -t nat -A PREROUTING -d {SERVICE}/32 -j DNAT --to-destination {}",
        endpoint.ip()
    ))?;

    assert!(ping(pod, SERVICE.into()).is_err(), "the setting makes no difference");
    let line = wait_logged(&agents[0], "WARN", &["net.bridge.bridge-nf-call-iptables is 0"])?;
    let remedy = line.split('`').nth(1).with_context(|| format!("no remedy in {line}"))?;
    assert_eq!(remedy, format!("sysctl -w {SETTING}=1"));
    node.exec(remedy)?;
    ping(pod, SERVICE.into())?;
    wait_logged(&agents[0], "INFO", &["nothing on this node"])?;
    let said = lines_of(&agents[0].log(), "WARN").into_iter().filter(|line| line.contains(SETTING));
    assert_eq!(said.count(), 1, "it is not said once");
    Ok(())
}
