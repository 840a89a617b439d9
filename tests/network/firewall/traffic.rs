//! The effect of the rules on packets.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use flannel_tests::traffic::{At, Host, ping, udp_echo};
use flannel_tests::{Pod, TestResult};

use super::{Bed, IPTABLES, NFTABLES};

/// Returns the source address that the receiver of a datagram sees.
fn seen(from: &dyn Host, to: &dyn Host) -> Result<IpAddr> {
    let (client, server) = (from.netns().udp_bind(from.ip(), 0)?, to.netns().udp_bind(to.ip(), 0)?);
    client.send_to(b"who am I?", server.local_addr()?)?;
    let mut buffer = [0; 16];
    let (_, source) = server.recv_from(&mut buffer).context("the datagram has not arrived")?;
    // The answer must arrive, too.
    server.send_to(b"this", source)?;
    let (_, answer): (_, SocketAddr) = client.recv_from(&mut buffer).context("no answer")?;
    anyhow::ensure!(answer == server.local_addr()?, "the answer came from {answer}");
    Ok(source.ip())
}

fn masquerades(config: &str, dataplane: &str) -> TestResult {
    let mut bed = Bed::started(2, config, &["--ip-masq", dataplane])?;
    bed.add_pods()?;
    let [one, other] = &bed.pods[..] else { panic!("{} pods", bed.pods.len()) };
    let outside = At { netns: bed.cluster.fabric().context("no router")?, ip: "192.168.64.254".parse()? };
    assert_eq!(seen(one, &outside)?, IpAddr::V4(bed.node(0).ip()), "a pod, from outside");
    assert_eq!(seen(one, other)?, one.ip(), "a pod, from a pod");
    assert_eq!(
        seen(bed.node(0), other)?,
        IpAddr::V4(Bed::base(1)),
        "a node's own address, from a remote pod"
    );
    assert_eq!(seen(bed.node(0), one)?, IpAddr::V4(bed.node(0).ip()), "a node's own address, from its pod");
    assert_eq!(seen(one, bed.node(1))?, IpAddr::V4(bed.node(0).ip()), "a pod, from another node");
    udp_echo(other, one, 1000)?;
    Ok(())
}

#[test]
fn packets_that_leave_the_overlay_have_the_nodes_address() -> TestResult {
    masquerades(IPTABLES, "--dataplane=netlink")
}

#[test]
fn packets_that_leave_the_overlay_have_the_nodes_address_with_bpf() -> TestResult {
    masquerades(IPTABLES, "--dataplane=bpf")
}

#[test]
fn packets_that_leave_the_overlay_have_the_nodes_address_by_nftables() -> TestResult {
    masquerades(NFTABLES, "--dataplane=netlink")
}

#[test]
fn without_masquerading_a_pod_keeps_its_address() -> TestResult {
    let mut bed = Bed::started(2, IPTABLES, &[])?;
    bed.add_pods()?;
    let outside = At { netns: bed.cluster.fabric().context("no router")?, ip: "192.168.64.254".parse()? };
    outside.netns.ip(&[format!("route add 10.5.1.0/24 via {}", bed.node(0).ip())])?;
    assert_eq!(seen(&bed.pods[0], &outside)?, bed.pods[0].ip());
    Ok(())
}

#[test]
fn a_host_with_a_forward_policy_of_drop_lets_pods_through() -> TestResult {
    let mut bed = Bed::started(2, IPTABLES, &["--iptables-forward-rules=false"])?;
    bed.add_pods()?;
    for node in bed.cluster.nodes() {
        node.exec("iptables -P FORWARD DROP")?;
    }
    let [one, other]: &[Pod] = &bed.pods[..] else { panic!("{} pods", bed.pods.len()) };
    assert!(ping(one, other.ip()).is_err(), "the host does not drop what it forwards");
    for agent in &mut bed.agents {
        agent.restart_with(|args| args.retain(|arg| arg != "--iptables-forward-rules=false"))?;
    }
    ping(one, other.ip())?;
    Ok(())
}
