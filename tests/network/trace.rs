//! `flannel-agent trace` shows what really happens to packets, and changes nothing.

pub(super) mod command;
mod floor;
mod ipv6;
mod refusals;
mod rules;

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, MetricsKey, Outcome};
use flannel_tests::agent::agent_binary;
use flannel_tests::traffic::{UdpSession, ping};
use flannel_tests::{AgentBuilder, Host, TestResult, Topology, eventually};

use super::flow_cache::{SOON, overlay_of};
use super::{forged, group};
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::Overlay;
use command::{TraceCommand, TraceReport};

/// Starts an overlay with BPF whose pods have pinged each other.
fn acquainted() -> Result<Overlay> {
    let overlay = overlay_of(1)?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    Ok(overlay)
}

/// Traces a packet from the pod of the first node to that of the second.
fn there(overlay: &Overlay) -> TraceCommand {
    let (one, other) = overlay.two_pods();
    TraceCommand::new(one.ip(), other.ip())
}

/// Traces a packet from the pod of the second node to that of the first.
fn back(overlay: &Overlay) -> TraceCommand {
    let (one, other) = overlay.two_pods();
    TraceCommand::new(other.ip(), one.ip())
}

/// Runs a trace on the first node, and checks that it changes neither the flows nor the counters of its outcomes. Tries
/// again, since the kernel sometimes sends a packet to a pod meanwhile. A trace that changes them would fail each time.
fn ask(overlay: &Overlay, question: &TraceCommand) -> Result<TraceReport> {
    let node = &overlay.nodes()[0];
    eventually("a trace that changes nothing", SOON, || {
        let known = || anyhow::Ok((inspect::metrics(node)?, (inspect::flows(node)?, inspect::flows6(node)?)));
        let before = known()?;
        let answer = question.ask(node)?;
        let after = known()?;
        for key in answer.programs().into_iter().map(counter) {
            ensure!(before.0.get(&key) == after.0.get(&key), "it was counted as {key:?}");
        }
        ensure!(before.1 == after.1, "the flows were {:?} and are {:?}", before.1, after.1);
        Ok(answer)
    })
}

/// Returns the key of the counter for a program and an outcome.
fn counter((program, outcome): (&str, &str)) -> MetricsKey {
    let hook = *Hook::ALL.iter().find(|hook| hook.program() == program).unwrap();
    MetricsKey { outcome: *Outcome::ALL.iter().find(|known| known.name() == outcome).unwrap(), hook }
}

/// Opens a flow that skips the host stack. Returns it with the ports of client and server.
fn proven(client: &dyn Host, server: &dyn Host) -> Result<(UdpSession, u16, u16)> {
    let mut session = UdpSession::open(client, server)?;
    (0..2).try_for_each(|_| session.echo(100))?;
    let (client, server) = (session.client()?.port(), session.server()?.port());
    Ok((session, client, server))
}

#[test]
fn a_new_flow_goes_through_the_stack_and_is_encapsulated() -> TestResult {
    let overlay = acquainted()?;
    let (one, other) = (overlay.peer(0)?, overlay.peer(1)?);
    for (question, reason, bytes) in [
        (there(&overlay), "not-cacheable", 84),
        (there(&overlay).udp(4000, 53), "flow-new", 84),
        (there(&overlay).tcp(4000, 80).arg("--size=1450"), "flow-new", 1450),
    ] {
        let answer = ask(&overlay, &question)?;
        assert_eq!(answer.programs(), [("pod_egress", reason), ("overlay_egress", "encapsulated")]);
        let lease = answer.step("lease");
        assert_eq!(lease["subnet"], format!("{}/24", other.base));
        assert_eq!(
            (&lease["public_ip"], &lease["vtep_mac"]),
            (&other.public_ip.to_string().into(), &other.mac.clone().into())
        );
        let outer = answer.step("outer");
        assert_eq!(outer["source"], one.public_ip.to_string());
        assert_eq!(outer["destination"], other.public_ip.to_string());
        assert_eq!(
            (&outer["destination_port"], &outer["vni"], &outer["ttl"]),
            (&8472.into(), &1.into(), &64.into())
        );
        assert_eq!(outer["inner_source"], one.mac);
        assert_eq!(outer["inner_destination"], other.mac);
        assert_eq!(outer["bytes"], bytes + 50);
        assert_eq!(answer.end(), ("leaves", UPLINK, "bpf"));
        assert_eq!(answer.0["end"]["node"], other.public_ip.to_string());
    }
    Ok(())
}

#[test]
fn a_trace_in_an_unprivileged_pod_sees_the_programs() -> TestResult {
    let overlay = acquainted()?;
    let node = &overlay.nodes()[0];
    let mut agent = node.netns().command("setpriv");
    agent.arg("--bounding-set=-sys_admin").arg(agent_binary()?);
    let answer = there(&overlay).ask_of(&mut agent, node)?;
    assert_eq!(answer.programs(), [("pod_egress", "not-cacheable"), ("overlay_egress", "encapsulated")]);
    Ok(())
}

#[test]
fn a_proven_flow_goes_past_the_stack_both_ways() -> TestResult {
    let overlay = acquainted()?;
    let (one, other) = overlay.two_pods();
    let (_session, client, server) = proven(one, other)?;
    let answer = ask(&overlay, &there(&overlay).udp(client, server))?;
    assert_eq!(answer.programs(), [("pod_egress", "encapsulated")]);
    assert_eq!(answer.end(), ("leaves", UPLINK, "bpf"));
    let answer = ask(&overlay, &back(&overlay).udp(server, client))?;
    assert_eq!(answer.programs(), [("underlay_ingress", "delivered")]);
    assert_eq!(answer.end(), ("delivered", one.port(), "bpf"));
    // The next port is another flow.
    let answer = ask(&overlay, &there(&overlay).udp(client, server.wrapping_add(1)))?;
    assert_eq!(answer.programs()[0], ("pod_egress", "flow-new"));
    Ok(())
}

#[test]
fn a_peers_packet_is_decapsulated_and_reaches_its_pod() -> TestResult {
    let overlay = acquainted()?;
    let (one, _) = overlay.two_pods();
    for (question, reasons) in
        [(back(&overlay), ["not-cacheable"; 2]), (back(&overlay).udp(53, 4000), ["flow-new", "flow-proven"])]
    {
        let answer = ask(&overlay, &question)?;
        let [entered, left] = reasons;
        let expected =
            [("underlay_ingress", "decapsulated"), ("overlay_ingress", entered), ("pod_ingress", left)];
        assert_eq!(answer.programs(), expected);
        assert_eq!(answer.end(), ("delivered", one.port(), "kernel"));
    }
    Ok(())
}

#[test]
fn a_forged_packet_is_dropped() -> TestResult {
    let overlay = acquainted()?;
    let (one, _) = overlay.two_pods();
    let sender = overlay.nodes()[1].ip();
    for (source, sender, reason) in [
        (overlay.two_pods().1.ip(), "192.168.64.77".parse()?, "forged-sender"),
        (forged::unleased(&overlay)?.into(), sender, "unknown-sender"),
        ("192.168.64.77".parse()?, "192.168.64.77".parse()?, "unknown-sender"),
        (one.ip(), sender, "looped-sender"),
    ] {
        let question = TraceCommand::new(source, one.ip()).arg(format!("--sender={sender}"));
        let answer = ask(&overlay, &question)?;
        assert_eq!(answer.programs(), [("underlay_ingress", reason)], "{source} from {sender}");
        assert_eq!(answer.step("program")["verdict"], "dropped");
        assert_eq!(answer.0["end"]["end"], "lost");
    }
    Ok(())
}

#[test]
fn the_host_itself_sends_and_receives() -> TestResult {
    let overlay = acquainted()?;
    let (one, other) = (overlay.nodes()[0].ip(), overlay.two_pods().1.ip());
    let answer = ask(&overlay, &TraceCommand::new(one.into(), other))?;
    assert_eq!(answer.programs(), [("overlay_egress", "encapsulated")]);
    let answer = ask(&overlay, &TraceCommand::new(other, overlay.base(0)?.into()))?;
    assert_eq!(
        answer.programs(),
        [("underlay_ingress", "decapsulated"), ("overlay_ingress", "not-cacheable")]
    );
    assert_eq!(answer.0["end"]["end"], "local");
    Ok(())
}

#[test]
fn a_detached_program_is_reported() -> TestResult {
    let mut overlay = acquainted()?;
    // A running agent would attach it again.
    overlay.agents[0].term()?;
    let node = &overlay.nodes()[0];
    std::fs::remove_file(inspect::pins(node)?.path("overlay_egress_link"))?;
    let answer = ask(&overlay, &there(&overlay))?;
    assert_eq!(answer.step("absent")["program"], "overlay_egress");
    assert_eq!(answer.step("absent")["device"], DEVICE);
    assert_eq!(answer.step("tunnel-end")["node"], overlay.nodes()[1].ip().to_string());
    assert_eq!(answer.end(), ("leaves", UPLINK, "kernel"));
    Ok(())
}

#[test]
fn programs_on_clsact_are_found() -> TestResult {
    let overlay =
        Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, AgentBuilder::without_tcx)?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    eventually("pod_egress is attached to the pod's port", SOON, || {
        let answer = ask(&overlay, &there(&overlay))?;
        let expected = [("pod_egress", "not-cacheable"), ("overlay_egress", "encapsulated")];
        ensure!(answer.programs() == expected, "{answer:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn without_the_flow_cache_pods_have_no_programs() -> TestResult {
    let overlay = Overlay::start(Topology::segment(2), &["--flow-cache=false"; 2], 1)?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    let answer = ask(&overlay, &there(&overlay).udp(4000, 53))?;
    assert_eq!(answer.programs(), [("overlay_egress", "encapsulated")]);
    let answer = ask(&overlay, &back(&overlay).udp(53, 4000))?;
    let expected = [("underlay_ingress", "decapsulated"), ("overlay_ingress", "flow-cache-off")];
    assert_eq!(answer.programs(), expected);
    assert_eq!(answer.end(), ("delivered", one.port(), "kernel"));
    Ok(())
}

#[test]
fn a_group_is_in_the_outer_headers() -> TestResult {
    let overlay = group::overlay(["--dataplane=bpf"; 2])?;
    let (one, other) = overlay.two_pods();
    group::mark(&overlay.nodes()[0], one, 42)?;
    let (_session, client, server) = proven(one, other)?;
    let answer = ask(&overlay, &there(&overlay).udp(client, server))?;
    assert_eq!(answer.programs(), [("pod_egress", "encapsulated")]);
    assert_eq!(answer.step("outer")["group"], 42);
    let answer = ask(&overlay, &there(&overlay))?;
    assert!(
        answer.step("note")["text"].as_str().unwrap().contains("a packet without a group"),
        "{answer:#?}"
    );
    assert!(answer.step("outer")["group"].is_null(), "{answer:#?}");
    Ok(())
}

#[test]
fn the_text_has_a_line_for_each_step() -> TestResult {
    let overlay = acquainted()?;
    let (one, other) = overlay.two_pods();
    let text = there(&overlay).text(&overlay.nodes()[0])?;
    let lines: Vec<_> = text.lines().collect();
    let labels: Vec<_> = lines.iter().map(|line| line[..17].trim_end()).collect();
    let expected = [
        "packet",
        "lease",
        "pod",
        "pod_egress",
        "route",
        "neighbour",
        "rules",
        "overlay_egress",
        "outer headers",
        "route",
        "neighbour",
        "=>",
    ];
    assert_eq!(labels, expected, "{text}");
    assert!(lines[0].ends_with(&format!("icmp {} -> {}, 84 bytes", one.ip(), other.ip())), "{text}");
    assert!(lines[3].contains(Outcome::NotCacheable.help()), "{text}");
    assert!(
        lines[7].contains("carried, encapsulated") && lines[7].contains(Outcome::Encapsulated.help()),
        "{text}"
    );
    assert!(
        lines[11].contains(&format!("leaves by {UPLINK}, wrapped in VXLAN for {}", overlay.nodes()[1].ip())),
        "{text}"
    );
    Ok(())
}
