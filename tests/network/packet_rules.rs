//! Rules that look at each packet of a flow: its packets stay in the host stack, and those of other flows do not.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, UdpSession};
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::ipv6::{BPF, DUAL, start};
use crate::inspect;
use crate::overlay::Overlay;

/// A port that rules name, and one that they do not.
const NAMED: u16 = 7001;
const OTHER: u16 = 7002;
/// Time limit for the rules to be read: once a second, where the tools are not slow.
const SOON: Duration = Duration::from_secs(15);
const DATAGRAMS: usize = 100;

/// Returns how many packets from the first node's pods have skipped its stack.
fn sent_past_stack(node: &Node) -> Result<u64> {
    Ok(inspect::packets(node, Hook::PodEgress, Outcome::Encapsulated)?
        + inspect::packets(node, Hook::PodEgress, Outcome::Forwarded)?)
}

/// Waits until a flow takes the shortcut, or takes it no longer.
fn wait_shortcut(node: &Node, session: &mut UdpSession, takes: bool) -> Result<()> {
    let what = if takes { "the flow takes the shortcut" } else { "the flow stays in the stack" };
    eventually(what, SOON, || {
        let before = sent_past_stack(node)?;
        (0..5).try_for_each(|_| session.echo(100))?;
        let skipped = sent_past_stack(node)? - before;
        ensure!(
            if takes { skipped == 5 } else { skipped == 0 },
            "{skipped} of 5 packets have skipped the stack"
        );
        Ok(())
    })
}

/// Opens a flow of a family to a port.
fn open(overlay: &Overlay, v6: bool, port: u16) -> Result<UdpSession> {
    let (one, other) = overlay.two_pods();
    if v6 {
        return UdpSession::open_to(&one.v6()?, &other.v6()?, port);
    }
    let [from, to] = [one, other].map(|pod| At { netns: pod.netns(), ip: pod.ip() });
    UdpSession::open_to(&from, &to, port)
}

#[test]
fn a_rule_that_looks_at_each_packet_sees_each_packet() -> TestResult {
    let overlay = start(Topology::segment(2), DUAL, &[BPF; 2])?;
    let node = &overlay.nodes()[0];
    for (v6, add, remove) in [
        (
            false,
            format!(
                "iptables -t mangle -A PREROUTING -p udp --dport {NAMED} -m length --length 500: -j DROP"
            ),
            format!(
                "iptables -t mangle -D PREROUTING -p udp --dport {NAMED} -m length --length 500: -j DROP"
            ),
        ),
        (
            true,
            format!("ip6tables -I FORWARD -p udp --dport {NAMED} -m quota --quota 10000000 -j ACCEPT"),
            format!("ip6tables -D FORWARD -p udp --dport {NAMED} -m quota --quota 10000000 -j ACCEPT"),
        ),
        (
            false,
            format!(
                "nft add table inet looks ; add chain inet looks forward {{ type filter hook forward priority -10 ; }} ; add rule \
                 inet looks forward udp dport {NAMED} meta length 500-65535 drop"
            ),
            "nft delete table inet looks".to_owned(),
        ),
    ] {
        let (mut named, mut other) = (open(&overlay, v6, NAMED)?, open(&overlay, v6, OTHER)?);
        wait_shortcut(node, &mut named, true)?;
        wait_shortcut(node, &mut other, true)?;
        node.exec(&add)?;
        wait_shortcut(node, &mut named, false)?;
        wait_shortcut(node, &mut other, true)?;
        let kept = inspect::packets(node, Hook::PodIngress, Outcome::FlowKept)?;
        named.echo(100)?;
        ensure_counted(node, kept)?;
        if !v6 {
            let stopped = (0..DATAGRAMS / 20).filter(|_| named.request(600).is_err()).count();
            assert_eq!(stopped, DATAGRAMS / 20, "long packets that the rule stops: {add}");
        }
        node.exec(&remove)?;
        wait_shortcut(node, &mut named, true)?;
    }
    eventually("each is told once when it comes and once when it has gone", SOON, || {
        let log = overlay.agents[0].log();
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        let told =
            [count("WARN a rule looks at each packet"), count("no longer so: a rule looks at each packet")];
        ensure!(told == [3, 3], "{told:?}");
        Ok(())
    })?;
    Ok(())
}

fn ensure_counted(node: &Node, before: u64) -> Result<()> {
    let now = inspect::packets(node, Hook::PodIngress, Outcome::FlowKept)?;
    ensure!(now > before, "no packet was counted");
    Ok(())
}

#[test]
fn the_flow_cache_by_hand_passes_such_rules_by() -> TestResult {
    let overlay =
        Overlay::start_with(Topology::segment(2), &[BPF; 2], 1, |agent| agent.arg("--flow-cache=true"))?;
    let node = &overlay.nodes()[0];
    node.exec(&format!("iptables -I FORWARD -p udp --dport {NAMED} -m limit --limit 1000/sec -j ACCEPT"))?;
    let mut session = open(&overlay, false, NAMED)?;
    wait_shortcut(node, &mut session, true).map_err(Into::into)
}
