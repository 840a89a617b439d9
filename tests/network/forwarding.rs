//! Changes of the host's forwarding while flows skip it: what the kernel reports takes effect at once, and noise does not.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::pod::BRIDGE;
use flannel_tests::traffic::{At, ping};
use flannel_tests::wait::throughout;
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::flow_cache::{SOON, overlay_of};
use super::flow_changes::{arrives, receiver};
use super::ipv6::{self, BPF, DUAL};
use crate::inspect::{self, DEVICE, Peer, UPLINK};
use crate::overlay::Overlay;

/// Much shorter than a proof holds, which is 10 s.
const AT_ONCE: Duration = Duration::from_secs(5);
const PORT: u16 = 7000;
/// Time limit for a flow to be proven again. A packet that entered the stack before the port had its programs again, and leaves it
/// afterwards, looks like a changed one: the flow then stays in the stack for 10 s.
const AGAIN: Duration = Duration::from_secs(20);
/// Time in which a late effect would be seen.
const WHILE: Duration = Duration::from_millis(500);

/// A flow of datagrams from the first node's first pod to the second node's.
struct Flow<'a> {
    overlay: &'a Overlay,
    client: UdpSocket,
    server: UdpSocket,
}

impl<'a> Flow<'a> {
    /// Opens a flow between addresses of one family, and waits until it skips both nodes' stacks.
    fn open(overlay: &'a Overlay, family: usize) -> Result<Self> {
        let (from, to) = overlay.two_pods();
        let client = from.netns().udp_bind(from.addresses()[family], 0)?;
        let server = receiver(to, SocketAddr::new(to.addresses()[family], PORT))?;
        let flow = Self { overlay, client, server };
        flow.wait_proven()?;
        Ok(flow)
    }

    fn wait_proven(&self) -> Result<()> {
        const DATAGRAMS: u64 = 5;
        eventually("the flow skips both stacks", AGAIN, || {
            let before = self.past_stacks()?;
            (0..DATAGRAMS).try_for_each(|_| arrives(&self.client, &self.server))?;
            let now = self.past_stacks()?;
            let skipped = [now.0 - before.0, now.1 - before.1];
            ensure!(skipped.iter().all(|skipped| *skipped >= DATAGRAMS), "{skipped:?} of {DATAGRAMS}");
            Ok(())
        })
    }

    /// Counts packets from the first node's pods and to the second node's that have skipped a stack.
    fn past_stacks(&self) -> Result<(u64, u64)> {
        let [sender, receiver] = self.overlay.nodes() else { unreachable!("two nodes") };
        let forwarded = inspect::packets(sender, Hook::PodEgress, Outcome::Forwarded)?;
        Ok((inspect::shortcut(sender)?.0 + forwarded, inspect::shortcut(receiver)?.1))
    }

    /// Makes a change after which the flow's datagrams do not arrive, and takes it back.
    fn is_stopped_by(&self, node: &Node, change: &[String], undo: &[String]) -> Result<()> {
        let family = if self.server.local_addr()?.is_ipv4() { "-4" } else { "-6" };
        let run = |lines: &[String]| {
            lines.iter().try_for_each(|line| node.exec(&format!("ip {family} {line}")).map(drop))
        };
        run(change)?;
        eventually("datagrams are stopped", AT_ONCE, || {
            ensure!(arrives(&self.client, &self.server).is_err(), "they still arrive");
            Ok(())
        })
        .with_context(|| format!("{change:?}"))?;
        run(undo)?;
        self.wait_proven().with_context(|| format!("after {undo:?}"))
    }
}

/// Starts two nodes with both families and two pods each.
fn nodes() -> Result<Overlay> {
    let overlay = Overlay::launch(DUAL, Topology::segment(2), &[BPF; 2], 2, |agent| agent)?;
    overlay.wait_plugged()?;
    let (one, other) = overlay.two_pods();
    let pairs = || one.addresses().iter().zip(other.addresses());
    eventually("pods reach each other", SOON, || {
        pairs().try_for_each(|(from, to)| ping(&At { netns: one.netns(), ip: *from }, *to).map(drop))
    })?;
    Ok(overlay)
}

#[test]
fn what_the_kernel_reports_takes_effect_at_once() -> TestResult {
    let overlay = nodes()?;
    let [sender, receiver] = overlay.nodes() else { unreachable!("two nodes") };
    sender.netns().ip(&["link add aside0 type bridge", "link set aside0 up"])?;
    for family in [0, 1] {
        let flow = Flow::open(&overlay, family)?;
        let (from, to) = (overlay.pods[0][0].addresses()[family], overlay.pods[1][0].addresses()[family]);
        let bits = if to.is_ipv4() { 32 } else { 128 };
        let port = overlay.pods[1][0].port();
        let peer = if to.is_ipv4() { IpAddr::from(receiver.ip()) } else { receiver.ip6().into() };
        for (node, change, undo) in [
            (
                sender,
                vec![
                    "route add default dev aside0 table 100".to_owned(),
                    format!("rule add from {from} lookup 100"),
                ],
                format!("rule del from {from} lookup 100"),
            ),
            (
                sender,
                vec![format!("route add blackhole {to}/{bits}")],
                format!("route del blackhole {to}/{bits}"),
            ),
            (
                sender,
                vec![format!("neigh replace {peer} lladdr 02:00:00:00:00:09 dev {UPLINK}")],
                format!("neigh del {peer} dev {UPLINK}"),
            ),
            (receiver, vec![format!("link set {port} down")], format!("link set {port} up")),
            (receiver, vec![format!("link set {port} nomaster")], format!("link set {port} master {BRIDGE}")),
            (
                receiver,
                vec![format!("neigh replace {to} lladdr 02:00:00:00:00:09 dev {BRIDGE}")],
                format!("neigh del {to} dev {BRIDGE}"),
            ),
        ] {
            flow.is_stopped_by(node, &change, &[undo])?;
        }
        is_told_the_mtu(&flow, to)?;
        follows_the_address(&flow, family)?;
    }
    Ok(())
}

/// Lowers the MTU of a route under a flow of long datagrams. Their sender is told.
fn is_told_the_mtu(flow: &Flow<'_>, to: IpAddr) -> Result<()> {
    const MTU: u32 = 1280;
    let sender = &flow.overlay.nodes()[0];
    let (bits, device) = if to.is_ipv4() { (32, DEVICE) } else { (128, ipv6::DEVICE) };
    let current = sender.exec(&format!("ip route get {to}"))?;
    let gateway = current.split("via ").nth(1).and_then(|rest| rest.split(' ').next());
    let gateway = gateway.with_context(|| format!("no gateway in {current}"))?;
    let route = format!("{to}/{bits} via {gateway} dev {device} onlink mtu lock {MTU}");
    sender.exec(&format!("ip route add {route}"))?;
    eventually("the pod is told", AT_ONCE, || {
        // It fails once the pod has been told.
        let _ = flow.client.send_to(&[0; 1400], flow.server.local_addr()?);
        let known = flow.overlay.pods[0][0].exec(&format!("ip route get {to}"))?;
        ensure!(known.contains(&format!("mtu {MTU}")), "{known}");
        Ok(())
    })?;
    sender.exec(&format!("ip route del {route}"))?;
    Ok(())
}

/// Moves the receiver's address to the second pod of its node, which says so.
fn follows_the_address(flow: &Flow<'_>, family: usize) -> Result<()> {
    let [old, new] = &flow.overlay.pods[1][..] else { unreachable!("two pods") };
    let address = flow.server.local_addr()?;
    let ip = address.ip();
    let (long, flags) = if ip.is_ipv4() { (format!("{ip}/24"), "") } else { (format!("{ip}/64"), "nodad") };
    old.netns().ip(&[format!("addr del {long} dev eth0")])?;
    new.netns().ip(&[format!("addr add {long} dev eth0 {flags}")])?;
    let socket = receiver(new, address)?;
    let remote = flow.overlay.pods[0][0].addresses()[family];
    eventually("the address is known at its new place", SOON, || {
        ping(&At { netns: new.netns(), ip }, remote).map(drop)
    })?;
    eventually("datagrams come to its new place", AT_ONCE, || arrives(&flow.client, &socket))
}

fn generation(node: &Node) -> Result<u32> {
    Ok(inspect::node_config(node)?.generation)
}

/// Waits until nothing counts any more, as the pods that were just added did. Returns the generation.
fn settled(node: &Node) -> Result<u32> {
    eventually("nothing counts any more", SOON, || {
        let before = generation(node)?;
        let ensure_same = || {
            let now = generation(node)?;
            ensure!(now == before, "from generation {before} to {now}");
            Ok(())
        };
        throughout("it is the same", WHILE, ensure_same)?;
        Ok(before)
    })
}

/// Makes a change that counts, and waits until exactly this has counted since the generation `before`.
fn counts_alone(node: &Node, before: u32, what: &str, change: impl FnOnce() -> Result<()>) -> Result<()> {
    change()?;
    let ensure_one_more = || {
        let now = generation(node)?;
        ensure!(now == before + 1, "{what}: from generation {before} to {now}");
        Ok(())
    };
    eventually("the change counts", AT_ONCE, ensure_one_more)?;
    throughout("nothing else has counted", WHILE, ensure_one_more)
}

#[test]
fn what_has_nothing_to_do_with_proven_flows_ends_no_proof() -> TestResult {
    const PEER: u8 = 77;
    // The log says what counts.
    let overlay = Overlay::start_with(Topology::segment(2), &[BPF; 2], 1, |agent| agent.arg("-v=2"))?;
    let node = &overlay.nodes()[0];
    let (one, other) = overlay.two_pods();
    inspect::wait_plugged(node, one)?;
    ping(one, other.ip())?;
    let ip = one.ip();
    let neighbours = node.netns().exec_json(&format!("ip -j neigh show {ip}"))?;
    let mac = neighbours[0]["lladdr"].as_str().context("no MAC")?;
    let peer = Peer::fictional(PEER);
    let started = settled(node)?;
    // A neighbour that is confirmed again and again, and what others do.
    let states = ["stale", "reachable", "delay", "probe"].repeat(25);
    let confirmed: Vec<_> = states
        .iter()
        .map(|state| format!("neigh replace {ip} lladdr {mac} dev {BRIDGE} nud {state}"))
        .collect();
    node.netns().ip(&confirmed)?;
    node.netns().ip(&[
        "link add aside0 type bridge",
        "link set aside0 up",
        "addr add 172.31.0.1/24 dev aside0",
        "neigh add 172.31.0.2 lladdr 02:00:00:00:00:01 dev aside0",
        "neigh replace 172.31.0.2 lladdr 02:00:00:00:00:02 dev aside0",
        "route add 198.51.100.0/24 via 172.31.0.2",
        "link del aside0",
    ])?;
    // A pod that comes and goes, and a node that comes.
    let pod = node.add_pod()?;
    ping(&pod, other.ip())?;
    node.netns().ip(&[format!("link del {}", pod.port())])?;
    drop(pod);
    overlay.etcd.put(&peer.key(), &peer.value())?;
    eventually("the new node is known", SOON, || {
        inspect::ensure_knows(node, &[overlay.peer(1)?, peer.clone()])
    })?;
    counts_alone(node, started, "a routing rule", || {
        node.exec("ip rule add fwmark 42 lookup 100").map(drop)
    })?;
    let moved = Peer { public_ip: [192, 168, 64, PEER + 1].into(), ..peer };
    counts_alone(node, started + 1, "a node's other address", || {
        overlay.etcd.put(&moved.key(), &moved.value()).map(drop)
    })?;
    // What flaps counts ten times a second.
    let (start, before) = (Instant::now(), generation(node)?);
    let flaps = ["add", "del"].repeat(500).into_iter();
    node.netns()
        .ip(&flaps.map(|change| format!("rule {change} fwmark 43 lookup 100")).collect::<Vec<_>>())?;
    eventually("it counts", AT_ONCE, || {
        ensure!(generation(node)? > before, "not yet");
        Ok(())
    })?;
    let (flapped, most) = (settled(node)? - before, start.elapsed().as_millis() / 100 + 2);
    assert!(u128::from(flapped) <= most, "{flapped} of at most {most}");
    Ok(())
}

#[test]
fn the_generation_goes_on_after_a_restart() -> TestResult {
    let mut overlay = overlay_of(1)?;
    let before = generation(&overlay.nodes()[0])?;
    overlay.agents[0].restart()?;
    eventually("proofs from before do not hold", SOON, || {
        let now = generation(&overlay.nodes()[0])?;
        ensure!(now > before, "from {before} to {now}");
        Ok(())
    })?;
    Ok(())
}
