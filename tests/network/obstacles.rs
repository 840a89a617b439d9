//! What other programs put on the way of packets sees every packet, and the shortcut is back when it is gone.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::foreign::{Drop, ForeignProgram};
use flannel_tests::pod::BRIDGE;
use flannel_tests::traffic::UdpSession;
use flannel_tests::wait::scaled;
use flannel_tests::{Node, Pod, TestResult, Topology, eventually};

use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::Overlay;

/// A filter of the clsact qdisc that drops UDP over IPv4 and passes all else, in classic BPF.
const DROP_UDP: &str =
    "bpf bytecode 6,40 0 0 12,21 0 3 2048,48 0 0 23,21 0 1 17,6 0 0 2,6 0 0 4294967295 direct-action";
/// What comes and goes is noticed in a second or two. A flow may stay in the stack for 10 s more: a packet that entered before the
/// programs were attached, and leaves after others have entered, looks like a changed one.
const SOON: Duration = Duration::from_secs(30);
/// Datagrams of a trial.
const DATAGRAMS: usize = 50;

/// An interface of the first node or its pod.
#[derive(Clone, Copy, Debug)]
enum Place {
    InPod,
    Port,
    Bridge,
    Device,
    Uplink,
}

/// What is put there.
#[derive(Clone, Copy, Debug)]
enum Thing {
    /// A program of its own kind.
    Program(Drop),
    /// A filter for received packets of this preference.
    IngressFilter(u16),
    /// A filter for sent packets.
    EgressFilter(u16),
    /// A queue that lets next to nothing through.
    Queue,
}

/// A flow of datagrams between the pods of two nodes.
struct Flow<'a> {
    node: &'a Node,
    pod: &'a Pod,
    sockets: [UdpSocket; 2],
    /// Counts the packets that the programs carry by the way in question.
    carried: fn(&Node) -> Result<(u64, u64)>,
}

impl<'a> Flow<'a> {
    fn open(overlay: &'a Overlay, carried: fn(&Node) -> Result<(u64, u64)>) -> Result<Self> {
        let (pod, remote) = overlay.two_pods();
        let sockets = UdpSession::open(pod, remote)?.sockets()?;
        for socket in &sockets {
            socket.set_read_timeout(Some(scaled(Duration::from_millis(50))))?;
        }
        Ok(Self { node: &overlay.nodes()[0], pod, sockets, carried })
    }

    /// Sends datagrams in both directions. Returns how many of each have arrived at the server and at the client.
    fn arrivals(&self) -> Result<(usize, usize)> {
        let [client, server] = &self.sockets;
        let (to_server, to_client) = (server.local_addr()?, client.local_addr()?);
        for _ in 0..DATAGRAMS {
            client.send_to(b"there", to_server)?;
            server.send_to(b"back", to_client)?;
        }
        let count = |socket: &UdpSocket| {
            let mut buffer = [0; 16];
            std::iter::from_fn(|| socket.recv_from(&mut buffer).ok()).count()
        };
        Ok((count(server), count(client)))
    }

    /// Waits until the programs carry both directions of the flow.
    fn wait_carried(&self) -> Result<()> {
        let before = (self.carried)(self.node)?;
        eventually("the programs carry the flow", SOON, || {
            self.arrivals()?;
            let now = (self.carried)(self.node)?;
            ensure!(now.0 > before.0 && now.1 > before.1, "{before:?}, then {now:?}");
            Ok(())
        })
    }

    /// Returns the namespace and the name of an interface.
    fn interface(&self, place: Place) -> (&flannel_tests::NetNs, &str) {
        match place {
            Place::InPod => (self.pod.netns(), "eth0"),
            Place::Port => (self.node.netns(), self.pod.port()),
            Place::Bridge => (self.node.netns(), BRIDGE),
            Place::Device => (self.node.netns(), DEVICE),
            Place::Uplink => (self.node.netns(), UPLINK),
        }
    }

    /// Puts the thing there.
    fn put(&self, place: Place, thing: Thing) -> Result<Option<ForeignProgram>> {
        let (netns, interface) = self.interface(place);
        let filter = |direction: &str, preference: u16| {
            // It may be there already.
            _ = netns.exec(&format!("tc qdisc add dev {interface} clsact"));
            let add =
                format!("filter add dev {interface} {direction} pref {preference} {}", quoted(DROP_UDP));
            netns.exec_with("tc -batch -", &add).map(|_| None)
        };
        match thing {
            Thing::Program(how) => ForeignProgram::attach(netns, interface, how).map(Some),
            Thing::IngressFilter(preference) => filter("ingress", preference),
            Thing::EgressFilter(preference) => filter("egress", preference),
            // One datagram a second at most, out of this queue or behind it.
            Thing::Queue => {
                let add = format!("tc qdisc add dev {interface} root tbf rate 8bit burst 100 limit 100");
                netns.exec(&add).map(|_| None)
            }
        }
    }

    /// Takes the thing away again.
    fn take_away(&self, place: Place, thing: Thing) -> Result<()> {
        let (netns, interface) = self.interface(place);
        let (direction, preference) = match thing {
            Thing::Program(_) => return Ok(()),
            Thing::IngressFilter(preference) => ("ingress", preference),
            Thing::EgressFilter(preference) => ("egress", preference),
            Thing::Queue => return netns.exec(&format!("tc qdisc del dev {interface} root")).map(drop),
        };
        netns.exec(&format!("tc filter del dev {interface} {direction} pref {preference}")).map(drop)
    }
}

/// Quotes the program of a filter, which has spaces.
fn quoted(filter: &str) -> String {
    let (start, rest) = filter.split_once("bytecode ").unwrap_or((filter, ""));
    let (code, end) = rest.rsplit_once(' ').unwrap_or((rest, ""));
    format!("{start}bytecode \"{code}\" {end}")
}

/// A thing at a place, and which directions of a flow it drops: from the pod, to the pod.
type Case = (Place, Thing, (bool, bool));

/// Puts each thing on the way of a flow that the programs carry, and takes it away again.
fn nothing_passes_by(flow: &Flow<'_>, cases: &[Case]) -> TestResult {
    let mut passed_by = Vec::new();
    for (place, thing, (there, back)) in cases {
        flow.wait_carried().with_context(|| format!("before {thing:?} at {place:?}"))?;
        let put = flow.put(*place, *thing)?;
        // What the queue holds at first.
        let most = if matches!(thing, Thing::Queue) { 2 } else { 0 };
        let ensure_stopped = |(to_server, to_client): (usize, usize)| {
            ensure!(!there || to_server <= most, "{to_server} of {DATAGRAMS} pass from the pod");
            ensure!(!back || to_client <= most, "{to_client} of {DATAGRAMS} pass to the pod");
            Ok(())
        };
        // Twice: on a busy machine datagrams may be late.
        let stopped = eventually("nothing passes it by", SOON, || {
            ensure_stopped(flow.arrivals()?)?;
            ensure_stopped(flow.arrivals()?)
        });
        if let Err(error) = stopped {
            passed_by.push(format!("{thing:?} at {place:?}: {error:#}"));
        }
        drop(put);
        flow.take_away(*place, *thing)?;
    }
    flow.wait_carried()?;
    assert_eq!(passed_by, [""; 0]);
    Ok(())
}

const THERE: (bool, bool) = (true, false);
const BACK: (bool, bool) = (false, true);

/// Below and above the agent's own preference.
const FIRST: u16 = 1;
const LAST: u16 = 49_152;

#[test]
fn programs_of_others_see_every_packet() -> TestResult {
    use Drop::{GenericXdp, NativeXdp, TcxEgress, TcxIngress};
    let overlay = Overlay::start(Topology::segment(2), &["--dataplane=bpf"; 2], 1)?;
    let cases = [
        (Place::InPod, Thing::Program(NativeXdp), BACK),
        (Place::InPod, Thing::Program(GenericXdp), BACK),
        (Place::Port, Thing::IngressFilter(FIRST), THERE),
        (Place::Port, Thing::EgressFilter(LAST), BACK),
        (Place::Bridge, Thing::IngressFilter(LAST), THERE),
        (Place::Bridge, Thing::EgressFilter(FIRST), BACK),
        (Place::Bridge, Thing::Program(GenericXdp), THERE),
        (Place::Device, Thing::IngressFilter(LAST), BACK),
        (Place::Device, Thing::EgressFilter(LAST), THERE),
        (Place::Device, Thing::Program(GenericXdp), BACK),
        (Place::Bridge, Thing::Queue, BACK),
        (Place::Device, Thing::Queue, THERE),
        (Place::Uplink, Thing::IngressFilter(LAST), BACK),
        (Place::Uplink, Thing::EgressFilter(LAST), THERE),
    ];
    let flow = Flow::open(&overlay, inspect::shortcut)?;
    nothing_passes_by(&flow, &cases)?;
    if inspect::has_tcx()? {
        let cases = [
            (Place::Port, Thing::Program(TcxIngress), THERE),
            (Place::Port, Thing::Program(TcxEgress), BACK),
            (Place::Bridge, Thing::Program(TcxEgress), BACK),
            (Place::Device, Thing::Program(TcxIngress), BACK),
            (Place::Device, Thing::Program(TcxEgress), THERE),
            (Place::Uplink, Thing::Program(TcxIngress), BACK),
            (Place::Uplink, Thing::Program(TcxEgress), THERE),
        ];
        nothing_passes_by(&flow, &cases)?;
    }
    Ok(())
}

#[test]
fn without_the_flow_cache_as_well() -> TestResult {
    let overlay = Overlay::start(Topology::segment(2), &["--flow-cache=false"; 2], 1)?;
    let cases = [
        (Place::Device, Thing::EgressFilter(LAST), THERE),
        (Place::Device, Thing::Queue, THERE),
        (Place::Uplink, Thing::IngressFilter(LAST), BACK),
    ];
    nothing_passes_by(&Flow::open(&overlay, inspect::through_stack)?, &cases)?;
    let told = [
        ("WARN", "the kernel's vxlan device wraps them: flannel.1: it has a TC filter of others on egress"),
        ("WARN", "the kernel's vxlan device wraps them: flannel.1: it has a tbf qdisc"),
        ("WARN", "the kernel's vxlan device unwraps packets: eth0: it has a TC filter of others on ingress"),
        (
            "INFO",
            "no longer so: all packets of pods go through the host stack, and the kernel's vxlan device wraps",
        ),
        (
            "INFO",
            "no longer so: the kernel's vxlan device unwraps packets: eth0: it has a TC filter of others",
        ),
    ];
    eventually("each is told once when it comes and once when it has gone", SOON, || {
        let log = overlay.agents[0].log();
        let count = |(level, text): (&str, &str)| {
            log.lines().filter(|line| line.contains(level) && line.contains(text)).count()
        };
        let counts = told.map(count);
        ensure!(counts == [1, 1, 1, 2, 1], "{counts:?}: {log}");
        Ok(())
    })?;
    Ok(())
}
