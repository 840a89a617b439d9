//! Traces that are refused, and their errors.

use std::fs;
use std::process::Command;

use aya::maps::{Array, Map, MapData};
use flannel_common::abi;
use flannel_common::node::NodeConfig;
use flannel_tests::agent::agent_binary;
use flannel_tests::{Cluster, TestResult, Topology};

use super::{TraceCommand, acquainted, back, there};
use crate::inspect;

#[test]
fn contradictory_options_are_refused_with_a_reason() -> TestResult {
    let overlay = acquainted()?;
    let node = &overlay.nodes()[0];
    let (one, other) = overlay.two_pods();
    let second = overlay.nodes()[1].ip();
    for (question, said) in [
        (TraceCommand::new(other.ip(), "203.0.113.7".parse()?), format!("ask on the node {second}")),
        (
            TraceCommand::new("10.9.0.1".parse()?, "10.9.0.2".parse()?),
            "is on this node, which has 10.5.".to_owned(),
        ),
        (TraceCommand::new("10.5.0.7".parse()?, one.ip()), "Name its public address by --sender".to_owned()),
        (there(&overlay).arg("--sender=192.168.64.77"), format!("{} is not on this node", other.ip())),
        (TraceCommand::new(one.ip(), "fd44::1".parse()?), "different address families".to_owned()),
        (there(&overlay).arg("--proto=tcp"), "need --dport".to_owned()),
        (there(&overlay).arg("--dport=80"), "--proto tcp or --proto udp".to_owned()),
        (there(&overlay).arg("--size=27"), "the headers alone have 28 bytes".to_owned()),
        (there(&overlay).arg("--size=4000"), "the kernel runs programs on up to".to_owned()),
        (back(&overlay).arg("--vni=7"), "no programs of VNI 7, but of VNI 1".to_owned()),
    ] {
        let refusal = question.refusal(node)?;
        assert!(refusal.contains(&said), "{said:?} is not in {refusal}");
    }
    Ok(())
}

#[test]
fn the_longest_packet_is_traced() -> TestResult {
    let overlay = acquainted()?;
    let answer = back(&overlay).arg("--size=3536").ask(&overlay.nodes()[0])?;
    assert_eq!(answer.programs()[0], ("underlay_ingress", "decapsulated"));
    Ok(())
}

#[test]
fn one_of_several_overlays_has_to_be_chosen() -> TestResult {
    let overlay = acquainted()?;
    let node = &overlay.nodes()[0];
    fs::create_dir(node.bpffs()?.join("flannel/7"))?;
    let refusal = there(&overlay).refusal(node)?;
    assert!(refusal.contains("choose one by --vni"), "{refusal}");
    let answer = there(&overlay).arg("--vni=1").ask(node)?;
    assert_eq!(answer.0["vni"], 1);
    let refusal = there(&overlay).arg("--vni=7").refusal(node)?;
    assert!(refusal.contains("flannel/7/CONFIG"), "{refusal}");
    Ok(())
}

#[test]
fn maps_of_another_version_are_not_misread() -> TestResult {
    let mut overlay = acquainted()?;
    overlay.agents[0].term()?;
    let node = &overlay.nodes()[0];
    let map = Map::from_map_data(MapData::from_pin(inspect::pins(node)?.path(abi::CONFIG))?)?;
    let mut config = Array::<_, NodeConfig>::try_from(map)?;
    let facts = config.get(&0, 0)?;
    for (layout, said) in
        [(abi::LAYOUT + 1, "use the flannel-agent that runs here"), (0, "the agent has not written")]
    {
        config.set(0, NodeConfig { layout, ..facts }, 0)?;
        let refusal = there(&overlay).refusal(node)?;
        assert!(refusal.contains(said), "{refusal}");
    }
    Ok(())
}

#[test]
fn without_an_agent_the_error_says_how_to_start_one() -> TestResult {
    let cluster = Cluster::build(Topology::segment(2))?;
    let refusal = TraceCommand::new("10.5.1.2".parse()?, "10.5.2.2".parse()?).refusal(&cluster.nodes()[0])?;
    assert!(refusal.contains("no flannel-agent has run here"), "{refusal}");
    assert!(refusal.contains("flannel-agent --etcd-endpoints URL"), "{refusal}");
    Ok(())
}

#[test]
fn without_root_the_error_says_so() -> TestResult {
    let overlay = acquainted()?;
    let node = &overlay.nodes()[0];
    let mut agent: Command = node.netns().command("setpriv");
    agent.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(agent_binary()?);
    let refusal = there(&overlay).refusal_of(&mut agent, node)?;
    assert!(refusal.starts_with("this needs root: "), "{refusal}");
    Ok(())
}
