//! The flow cache: flows whose packets the host stack rewrites without changing their addresses. They never skip it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::flow::{PROOF_NS, TRANSIT_NS};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, TcpSession, TransparentProxy, UdpSession};
use flannel_tests::{Capture, Node, TestResult, Topology, eventually};

use super::ipv6::{BPF, DUAL, start};
use crate::inspect;
use crate::overlay::Overlay;

const PACKETS: usize = 200;
const PORT: u16 = 7007;
/// Longest time until a rule takes effect on a flow that skips the stack, with 4 s for a busy machine.
const BOUND: Duration = Duration::from_nanos(PROOF_NS + TRANSIT_NS + 4_000_000_000);

fn two_nodes() -> Result<Overlay> {
    start(Topology::segment(2), DUAL, &[BPF; 2])
}

/// Returns the pods of both nodes at their addresses of either family.
fn pairs(overlay: &Overlay) -> Result<[(At<'_>, At<'_>); 2]> {
    let (one, other) = overlay.two_pods();
    let v4 = [one, other].map(|pod| At { netns: pod.netns(), ip: pod.ip() });
    Ok([(v4[0], v4[1]), (one.v6()?, other.v6()?)])
}

/// Runs the same line of `iptables` for both families. Where they differ, `{ttl}` stands for the family's word.
fn both_tables(node: &Node, line: &str) -> Result<()> {
    node.exec(&format!("iptables {}", line.replace("{ttl}", "TTL --ttl-set")))?;
    node.exec(&format!("ip6tables {}", line.replace("{ttl}", "HL --hl-set"))).map(drop)
}

/// Returns the fields of the datagrams that arrive at a pod while `PACKETS` requests are sent.
fn arriving(session: &mut UdpSession, to: &At<'_>) -> Result<Vec<(String, String)>> {
    let capture = Capture::start(to.netns, "eth0")?;
    (0..PACKETS).try_for_each(|_| session.request(100))?;
    let (filter, fields) = match to.ip {
        IpAddr::V4(ip) => (format!("udp && ip.dst == {ip}"), ["ip.dsfield", "ip.ttl"]),
        IpAddr::V6(ip) => (format!("udp && ipv6.dst == {ip}"), ["ipv6.tclass", "ipv6.hlim"]),
    };
    let packets = capture.stop()?.fields(&filter, &fields)?;
    Ok(packets.into_iter().map(|packet| (packet[0].clone(), packet[1].clone())).collect())
}

fn ensure_all(packets: &[(String, String)], accepts: impl Fn(&(String, String)) -> bool) -> Result<()> {
    let right = packets.iter().filter(|packet| accepts(packet)).count();
    ensure!(right == PACKETS && packets.len() == PACKETS, "{right} of {} are right", packets.len());
    Ok(())
}

/// Expedited forwarding (DSCP 46), as tshark prints the byte of either family.
fn is_expedited((class, _): &(String, String)) -> bool {
    u32::from_str_radix(class.trim_start_matches("0x"), 16) == Ok(46 << 2)
}

fn refused(node: &Node, hook: Hook) -> Result<u64> {
    inspect::packets(node, hook, Outcome::FlowChanged)
}

#[test]
fn what_rules_write_into_packets_is_in_every_packet() -> TestResult {
    // Not the outer packets: BPF would leave all of them to the kernel.
    const EXPEDITE: &str = "-p udp ! --dport 8472 -j DSCP --set-dscp 46";
    let overlay = two_nodes()?;
    // On the node of the sender, and on that of the receiver.
    for (node, hook) in overlay.nodes().iter().zip([Hook::PodEgress, Hook::OverlayIngress]) {
        for (chain, rule) in
            [("FORWARD", EXPEDITE), ("POSTROUTING", EXPEDITE), ("PREROUTING", "-p udp -j {ttl} 77")]
        {
            both_tables(node, &format!("-t mangle -A {chain} {rule}"))?;
            let before = refused(node, hook)?;
            for (from, to) in pairs(&overlay)? {
                let what = || format!("{chain} of {}, to {}", node.name(), to.ip);
                let packets = arriving(&mut UdpSession::open(&from, &to)?, &to).with_context(what)?;
                ensure_all(&packets, |packet| match chain {
                    // The rule comes before the node routes the packet; the receiver's node is the last one.
                    "PREROUTING" => packet.1 == if hook == Hook::PodEgress { "75" } else { "76" },
                    _ => is_expedited(packet),
                })
                .with_context(what)?;
            }
            let counted = refused(node, hook)? - before;
            assert!(counted >= 2 * (PACKETS as u64 - 1), "{chain} of {}: {counted}", node.name());
            both_tables(node, &format!("-t mangle -D {chain} {rule}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_rule_that_comes_later_writes_into_every_packet_once_the_proof_is_renewed() -> TestResult {
    const RULE: &str = "POSTROUTING -p udp ! --dport 8472 -j DSCP --set-dscp 46";
    let overlay = two_nodes()?;
    let node = &overlay.nodes()[0];
    for (from, to) in pairs(&overlay)? {
        let mut session = UdpSession::open(&from, &to)?;
        (0..5).try_for_each(|_| session.request(100))?;
        let before = refused(node, Hook::PodEgress)?;
        both_tables(node, &format!("-t mangle -A {RULE}"))?;
        eventually("the rule is noticed", BOUND, || {
            session.request(100)?;
            ensure!(refused(node, Hook::PodEgress)? > before, "not yet");
            Ok(())
        })?;
        ensure_all(&arriving(&mut session, &to)?, is_expedited)?;
        both_tables(node, &format!("-t mangle -D {RULE}"))?;
        let skipped = inspect::packets(node, Hook::PodEgress, Outcome::Encapsulated)?
            + inspect::packets(node, Hook::PodEgress, Outcome::Forwarded)?;
        eventually("the flow skips the stack again", BOUND, || {
            session.request(100)?;
            let now = inspect::packets(node, Hook::PodEgress, Outcome::Encapsulated)?
                + inspect::packets(node, Hook::PodEgress, Outcome::Forwarded)?;
            ensure!(now > skipped, "not yet");
            Ok(())
        })?;
    }
    Ok(())
}

/// Exchanges data many times over a new connection to the port that the rules name.
fn exchange(from: &At<'_>, to: &At<'_>) -> Result<()> {
    let mut session = TcpSession::open_to(from, to, PORT)?;
    (0..PACKETS).try_for_each(|_| session.exchange(1000)).with_context(|| format!("TCP to {}", to.ip))
}

/// Returns how many packets of flows that the stack changes a node has kept in the stack, in each direction.
fn refused_both_ways(node: &Node) -> Result<[u64; 2]> {
    Ok([refused(node, Hook::PodEgress)?, refused(node, Hook::OverlayIngress)?])
}

#[test]
fn a_connection_through_synproxy_is_whole() -> TestResult {
    let overlay = two_nodes()?;
    let node = &overlay.nodes()[1];
    node.netns().set(&[("net.netfilter.nf_conntrack_tcp_loose", "0")])?;
    // They come before the agent's rules, which accept all packets of pods.
    let rules = [
        format!("-t raw -A PREROUTING -p tcp --dport {PORT} --syn -j CT --notrack"),
        format!(
            "-I FORWARD 1 -p tcp --dport {PORT} -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm \
             --timestamp --wscale 7 --mss 1300"
        ),
        "-I FORWARD 2 -m conntrack --ctstate INVALID -j DROP".to_owned(),
    ];
    rules.iter().try_for_each(|rule| both_tables(node, rule))?;
    for (from, to) in pairs(&overlay)? {
        let before = refused_both_ways(node)?;
        exchange(&from, &to)?;
        let now = refused_both_ways(node)?;
        assert!(now[0] > before[0] && now[1] > before[1], "{before:?}, then {now:?}");
    }
    Ok(())
}

#[test]
fn a_connection_through_a_transparent_proxy_with_the_clients_address_is_whole() -> TestResult {
    const PROXY: u16 = 15001;
    let overlay = two_nodes()?;
    let node = &overlay.nodes()[0];
    // TPROXY rules have no effect on what a bridge passes to them: the IP layer forgets the socket that they choose.
    let bridged = ["iptables", "ip6tables"].map(|tables| format!("net.bridge.bridge-nf-call-{tables}"));
    node.netns().set(&[(bridged[0].as_str(), "0"), (bridged[1].as_str(), "0")])?;
    for family in ["-4", "-6"] {
        node.exec(&format!("ip {family} rule add fwmark 1 lookup 100"))?;
        node.exec(&format!("ip {family} route add local default dev lo table 100"))?;
    }
    both_tables(node, "-t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 1")?;
    both_tables(
        node,
        &format!(
            "-t mangle -A PREROUTING -i cni0 -p tcp --dport {PORT} -j TPROXY --on-port {PROXY} --tproxy-mark 1"
        ),
    )?;
    for (from, to) in pairs(&overlay)? {
        let any = if to.ip.is_ipv4() { "0.0.0.0".parse::<IpAddr>()? } else { "::".parse()? };
        let proxy = TransparentProxy::start(node.netns(), SocketAddr::new(any, PROXY))?;
        let before = inspect::shortcut(node)?;
        exchange(&from, &to)?;
        assert_eq!(inspect::shortcut(node)?, before, "packets past the proxy");
        assert_eq!(proxy.stop()?, PACKETS as u64 * 2000, "the proxy has seen all bytes");
    }
    Ok(())
}
