//! Traces through the kernel: on nodes without BPF, and where entries are missing.

use anyhow::ensure;
use flannel_tests::traffic::ping;
use flannel_tests::{Cluster, Datastore as _, TestResult, Topology, eventually};

use super::{TraceCommand, acquainted, ask, there};
use crate::inspect::{DEVICE, UPLINK};
use crate::network::flow_cache::SOON;
use crate::overlay::Overlay;

#[test]
fn a_node_without_bpf_traces_the_kernel() -> TestResult {
    let overlay = Overlay::mixed()?;
    let (bpf, kernel) = overlay.two_pods();
    ping(bpf, kernel.ip())?;
    let (node, peer) = (&overlay.nodes()[1], overlay.peer(0)?);
    let answer = TraceCommand::new(kernel.ip(), bpf.ip()).ask(node)?;
    assert!(answer.0["vni"].is_null() && answer.programs().is_empty(), "{answer:#?}");
    assert_eq!(answer.step("pod")["device"], kernel.port());
    let route = answer.step("route");
    assert_eq!((&route["device"], &route["gateway"]), (&DEVICE.into(), &peer.base.to_string().into()));
    assert_eq!(answer.step("neighbour")["mac"], peer.mac);
    assert_eq!(answer.step("neighbour")["state"], "permanent");
    assert_eq!(answer.step("tunnel-end")["node"], peer.public_ip.to_string());
    assert_eq!(answer.end(), ("leaves", UPLINK, "kernel"));
    let answer = TraceCommand::new(bpf.ip(), kernel.ip()).ask(node)?;
    assert_eq!(answer.end(), ("delivered", kernel.port(), "kernel"));
    Ok(())
}

#[test]
fn missing_entries_of_the_kernel_are_named() -> TestResult {
    let mut overlay = acquainted()?;
    // A running agent would restore them.
    overlay.agents[0].term()?;
    let (netns, peer) = (overlay.nodes()[0].netns(), overlay.peer(1)?);
    let lost = |reason| {
        let answer = ask(&overlay, &there(&overlay))?;
        let end = &answer.0["end"];
        ensure!(
            end["end"] == "lost" && end["reason"].as_str().unwrap().contains(reason),
            "{reason}: {answer:#?}"
        );
        Ok(())
    };
    netns.set(&[("net.ipv4.conf.cni0.forwarding", "0")])?;
    lost("forwarding is off")?;
    netns.set(&[("net.ipv4.conf.cni0.forwarding", "1")])?;
    for (line, reason) in [
        (format!("neigh del {} dev {DEVICE}", peer.base), "has no MAC for"),
        (format!("route del {}/24", peer.base), "the route says unreachable"),
    ] {
        netns.ip(&[&line])?;
        lost(reason)?;
    }
    netns.ip(&["route del unreachable 10.5.0.0/18"])?;
    assert_eq!(ask(&overlay, &there(&overlay))?.end(), ("leaves", UPLINK, "kernel"));
    netns.ip(&["route del default"])?;
    lost("there is no route")?;
    Ok(())
}

#[test]
fn unleased_and_too_long_packets_go_no_further() -> TestResult {
    let overlay = acquainted()?;
    let (one, other) = overlay.two_pods();
    for (question, outcome, known, reason) in [
        (TraceCommand::new(one.ip(), "10.5.0.7".parse()?), "unleased", "note", "the route says unreachable"),
        (
            TraceCommand::new(one.ip(), other.ip()).arg("--size=1451"),
            "not-cacheable",
            "lease",
            "1451 bytes exceed the MTU 1450",
        ),
    ] {
        let answer = ask(&overlay, &question)?;
        let end = &answer.0["end"];
        assert!(end["end"] == "lost" && end["reason"].as_str().unwrap().contains(reason), "{answer:#?}");
        assert_eq!(answer.programs(), [("pod_egress", outcome)], "{answer:#?}");
        assert_eq!(answer.steps()[0]["step"], known, "{answer:#?}");
    }
    Ok(())
}

#[test]
fn direct_routes_lead_out_of_the_uplink() -> TestResult {
    let cluster = Cluster::build(Topology::segment(2))?;
    let store = cluster.local_store("leases")?;
    store.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#)?;
    let _agents = cluster.start_agents(&store)?;
    let pods = cluster.one_pod_each()?;
    eventually("the pods reach each other", SOON, || ping(&pods[0], pods[1].ip()))?;
    let node = &cluster.nodes()[0];
    let answer = TraceCommand::new(pods[0].ip(), pods[1].ip()).ask(node)?;
    assert_eq!(answer.step("route")["gateway"], cluster.nodes()[1].ip().to_string());
    assert_eq!(answer.end(), ("leaves", UPLINK, "kernel"));
    assert!(answer.0["end"]["node"].is_null(), "{answer:#?}");
    let answer = TraceCommand::new(pods[1].ip(), pods[0].ip()).ask(node)?;
    assert_eq!(answer.end(), ("delivered", pods[0].port(), "kernel"));
    Ok(())
}
