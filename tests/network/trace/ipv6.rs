//! Traces of IPv6 over IPv6: programs decapsulate and deliver packets; the kernel's device encapsulates them.

use std::net::IpAddr;

use anyhow::Result;
use flannel_tests::traffic::At;
use flannel_tests::{Node, TestResult, Topology};

use super::command::TraceReport;
use super::{TraceCommand, ask, proven};
use crate::inspect::{self, UPLINK};
use crate::network::ipv6::{BPF, DEVICE, DUAL, NETLINK, V6_ONLY, base, start, two_nodes, two_pods};
use crate::overlay::Overlay;

fn there(one: &At<'_>, other: &At<'_>) -> TraceCommand {
    TraceCommand::new(one.ip, other.ip)
}

/// Checks that the kernel's device encapsulates the packet for the second node, by its FDB entry.
fn ensure_device_encapsulates(answer: &TraceReport, overlay: &Overlay) {
    let node: IpAddr = overlay.nodes()[1].ip6().into();
    assert_eq!(answer.step("tunnel-end")["device"], DEVICE);
    assert_eq!(answer.step("tunnel-end")["node"], node.to_string());
    assert_eq!(answer.end(), ("leaves", UPLINK, "kernel"), "{answer:#?}");
    assert_eq!(answer.0["end"]["node"], node.to_string());
}

fn mac(node: &Node) -> Result<String> {
    Ok(inspect::link(node, DEVICE)?.mac)
}

#[test]
fn a_new_flow_goes_through_the_stack_and_the_device_encapsulates_it() -> TestResult {
    let overlay = two_nodes()?;
    let (one, other) = two_pods(&overlay)?;
    let peer = &overlay.nodes()[1];
    for (question, reason) in [
        (there(&one, &other), "not-cacheable"),
        (there(&one, &other).udp(4000, 53), "flow-new"),
        (there(&one, &other).tcp(4000, 80).arg("--size=1430"), "flow-new"),
    ] {
        let answer = ask(&overlay, &question)?;
        assert_eq!(answer.programs(), [("pod_egress", reason), ("overlay_egress", "inner-ipv6")]);
        let lease = answer.step("lease");
        assert_eq!(lease["subnet"], format!("{}/64", base(peer)?));
        assert_eq!(lease["public_ip"], peer.ip6().to_string());
        assert_eq!(lease["vtep_mac"], mac(peer)?);
        assert_eq!(answer.step("route")["device"], DEVICE);
        ensure_device_encapsulates(&answer, &overlay);
    }
    let answer = ask(&overlay, &there(&one, &other).arg("--size=1431"))?;
    let reason = answer.0["end"]["reason"].as_str().unwrap();
    assert_eq!(reason, "1431 bytes exceed the MTU 1430 of flannel-v6.1: the host answers that it is too big");
    Ok(())
}

#[test]
fn a_proven_flow_goes_past_the_stack_both_ways() -> TestResult {
    let overlay = two_nodes()?;
    let (one, other) = two_pods(&overlay)?;
    let (_session, client, server) = proven(&one, &other)?;
    let out = there(&one, &other).udp(client, server);
    for question in [out.clone(), out.clone().arg("--size=1430")] {
        let answer = ask(&overlay, &question)?;
        let expected = [("pod_egress", "forwarded"), ("overlay_egress", "after-shortcut")];
        assert_eq!(answer.programs(), expected, "{answer:#?}");
        ensure_device_encapsulates(&answer, &overlay);
    }
    let text = out.text(&overlay.nodes()[0])?;
    let end = format!("leaves by {UPLINK}, wrapped in VXLAN for {} by the kernel", overlay.nodes()[1].ip6());
    assert!(text.trim_end().ends_with(&end), "{text}");
    let answer = ask(&overlay, &there(&other, &one).udp(server, client))?;
    assert_eq!(answer.programs(), [("underlay_ingress", "delivered")]);
    assert_eq!(answer.end(), ("delivered", overlay.pods[0][0].port(), "bpf"));
    // The next port is another flow.
    let answer = ask(&overlay, &there(&one, &other).udp(client, server.wrapping_add(1)))?;
    assert_eq!(answer.programs()[0], ("pod_egress", "flow-new"));
    Ok(())
}

#[test]
fn a_peers_packet_is_decapsulated_and_reaches_its_pod() -> TestResult {
    let overlay = two_nodes()?;
    let (one, other) = two_pods(&overlay)?;
    let back = || there(&other, &one);
    for (question, [entered, left]) in [
        (back(), ["not-cacheable"; 2]),
        (back().udp(53, 4000), ["flow-new", "flow-proven"]),
        (back().udp(53, 4000).arg("--size=3516"), ["flow-new", "flow-proven"]),
    ] {
        let answer = ask(&overlay, &question)?;
        let expected =
            [("underlay_ingress", "decapsulated"), ("overlay_ingress", entered), ("pod_ingress", left)];
        assert_eq!(answer.programs()[..2], expected[..2]);
        if answer.0["packet"]["bytes"] == 84 {
            assert_eq!(answer.programs(), expected);
            assert_eq!(answer.end(), ("delivered", overlay.pods[0][0].port(), "kernel"));
        }
    }
    let refusal = back().arg("--size=3517").refusal(&overlay.nodes()[0])?;
    assert!(refusal.contains("the kernel runs programs on up to 3516 bytes"), "{refusal}");
    Ok(())
}

#[test]
fn a_forged_packet_is_dropped() -> TestResult {
    let overlay = two_nodes()?;
    let (one, other) = two_pods(&overlay)?;
    let peer: IpAddr = overlay.nodes()[1].ip6().into();
    for (source, sender, reason) in [
        (other.ip, "fd00:192:168:64::77".parse()?, "forged-sender"),
        ("fd45::7".parse()?, "fd00:192:168:64::77".parse()?, "unknown-sender"),
        (one.ip, peer, "looped-sender"),
    ] {
        let answer = ask(&overlay, &TraceCommand::new(source, one.ip).arg(format!("--sender={sender}")))?;
        assert_eq!(answer.programs(), [("underlay_ingress", reason)], "{source} from {sender}");
        assert_eq!(answer.0["end"]["end"], "lost");
    }
    let refusal = there(&other, &one).arg("--sender=192.168.64.2").refusal(&overlay.nodes()[0])?;
    assert!(refusal.contains("is sent over its own address family"), "{refusal}");
    Ok(())
}

#[test]
fn the_host_itself_sends_and_receives() -> TestResult {
    let overlay = two_nodes()?;
    let (node, (_, pod)) = (&overlay.nodes()[0], two_pods(&overlay)?);
    let host: IpAddr = base(node)?.into();
    let answer = ask(&overlay, &TraceCommand::new(host, pod.ip))?;
    assert_eq!(answer.programs(), [("overlay_egress", "inner-ipv6")]);
    ensure_device_encapsulates(&answer, &overlay);
    let answer = ask(&overlay, &TraceCommand::new(pod.ip, host))?;
    let expected = [("underlay_ingress", "decapsulated"), ("overlay_ingress", "not-cacheable")];
    assert_eq!(answer.programs(), expected);
    assert_eq!(answer.0["end"]["end"], "local");
    Ok(())
}

#[test]
fn a_node_without_bpf_traces_the_kernel() -> TestResult {
    let overlay = start(Topology::segment(2), V6_ONLY, &[NETLINK, BPF])?;
    let (one, other) = two_pods(&overlay)?;
    let node = &overlay.nodes()[0];
    let answer = there(&one, &other).ask(node)?;
    assert!(answer.0["vni"].is_null() && answer.programs().is_empty(), "{answer:#?}");
    ensure_device_encapsulates(&answer, &overlay);
    let answer = there(&other, &one).ask(node)?;
    assert_eq!(answer.end(), ("delivered", overlay.pods[0][0].port(), "kernel"));
    Ok(())
}

#[test]
fn peers_on_the_link_are_reached_without_a_tunnel() -> TestResult {
    let direct = DUAL.replace(r#""vxlan""#, r#""vxlan","DirectRouting":true"#);
    let overlay = start(Topology::segment(2), &direct, &[BPF; 2])?;
    let port = overlay.pods[0][0].port();
    let v4 = [0, 1].map(|node| At { netns: overlay.pods[node][0].netns(), ip: overlay.pods[node][0].ip() });
    let v6 = two_pods(&overlay)?;
    for (one, other) in [(&v4[0], &v4[1]), (&v6.0, &v6.1)] {
        let out = ask(&overlay, &there(one, other).udp(4000, 53))?;
        assert_eq!(out.programs(), [("pod_egress", "flow-new"), ("underlay_egress", "flow-proven")]);
        assert_eq!(
            (out.step("lease")["kind"].as_str(), out.end()),
            (Some("direct"), ("leaves", UPLINK, "kernel"))
        );
        let back = ask(&overlay, &there(other, one).udp(53, 4000))?;
        assert_eq!(back.programs(), [("underlay_ingress", "flow-new"), ("pod_ingress", "flow-proven")]);
        assert_eq!(back.end(), ("delivered", port, "kernel"));
        let (_session, client, server) = proven(one, other)?;
        let out = ask(&overlay, &there(one, other).udp(client, server))?;
        assert_eq!(out.programs(), [("pod_egress", "on-link"), ("underlay_egress", "after-shortcut")]);
        assert_eq!((out.end(), out.0["end"]["node"].as_str()), (("leaves", UPLINK, "bpf"), None));
        let back = ask(&overlay, &there(other, one).udp(server, client))?;
        assert_eq!(back.programs(), [("underlay_ingress", "delivered")]);
        assert_eq!(back.end(), ("delivered", port, "bpf"));
    }
    Ok(())
}

#[test]
fn a_network_without_ipv6_says_so() -> TestResult {
    let overlay = super::acquainted()?;
    let [one, other] = [0, 1].map(|node| IpAddr::V6(overlay.nodes()[node].ip6()));
    let answer = ask(&overlay, &TraceCommand::new(one, other))?;
    assert_eq!(answer.step("note")["text"], "the overlay has no IPv6");
    assert!(answer.programs().is_empty() && answer.0["end"]["node"].is_null(), "{answer:#?}");
    assert_eq!(answer.end(), ("leaves", UPLINK, "kernel"));
    Ok(())
}
