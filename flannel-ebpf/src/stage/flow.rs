//! The flow cache: which packets may skip the host stack, because it let others of their flow through unchanged.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use flannel_common::flow::{Flow, FlowKey, Passage, Port};
use flannel_common::outcome::Outcome;

use crate::ip::TCP;
use crate::maps::{self, IpFamily};
use crate::packet::Packet;
use crate::stage::parse::{self, Inner};

/// Which way a packet goes, seen from the pod on this node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the pod.
    Egress,
    /// To the pod.
    Ingress,
}

/// A packet's part in its flow.
pub struct Step<F: IpFamily> {
    key: FlowKey<F::Address>,
    direction: Direction,
    control: bool,
    mark: u32,
    now: u64,
}

impl<F: IpFamily> Step<F> {
    /// Reads which flow a packet belongs to. `mark`: its group's ([`Passage::mark`]).
    ///
    /// # Errors
    /// [`Outcome::NotCacheable`], [`Outcome::Truncated`].
    #[inline(always)]
    pub fn of(
        packet: &Packet<'_>,
        inner: &Inner<'_, F>,
        direction: Direction,
        mark: u32,
    ) -> Result<Self, Outcome> {
        let parse::Transport { source, destination, control } = parse::transport(packet, inner)?;
        let from = (inner.ip.source(), source);
        let to = (inner.ip.destination(), destination);
        let ((pod, pod_port), (remote, remote_port)) =
            if direction == Direction::Egress { (from, to) } else { (to, from) };
        let protocol = inner.ip.protocol();
        let key = FlowKey { pod, remote, pod_port, remote_port, protocol, reserved: [0; 3] };
        Ok(Self { key, direction, control, mark, now: now() })
    }

    /// What is known of the flow, if this packet may skip the host stack. `port`: where it comes from, if that is a pod.
    ///
    /// # Errors
    /// [`Outcome::TcpControl`], [`Outcome::FlowNew`], [`Outcome::FlowStale`].
    #[inline(always)]
    pub fn shortcut(&self, port: Option<&Port>) -> Result<&'static Flow, Outcome> {
        if self.control {
            return Err(Outcome::TcpControl);
        }
        // SAFETY: an entry stays in place for as long as a program that found it runs (RCU).
        let flow = maps::flow::<F>(&self.key).map(|flow| unsafe { &*flow }).ok_or(Outcome::FlowNew)?;
        let (way, back) = match self.direction {
            Direction::Egress => (&flow.egress, &flow.ingress),
            Direction::Ingress => (&flow.ingress, &flow.egress),
        };
        // A connection tracker that sees one direction only takes the other's packets for invalid.
        let known = way.is_known() && (self.key.protocol != TCP || back.is_known());
        // Rules may let one group pass and not another. What leaves has its group from the stack.
        let other_group = self.direction == Direction::Ingress && way.mark != self.mark;
        if !known || other_group || port.is_some_and(|port| flow.port != *port) {
            return Err(Outcome::FlowNew);
        }
        if way.is_proven(self.now) { Ok(flow) } else { Err(Outcome::FlowStale) }
    }

    /// Notes that the packet goes into the host stack. A TCP connection that begins or ends is forgotten. `port`:
    /// where the pod is, if that is known here.
    #[inline(always)]
    pub fn enters(&self, port: Option<&Port>) {
        if self.control {
            maps::forget::<F>(&self.key);
        } else if let Some(flow) = self.known(port) {
            self.enter(flow);
        } else {
            let mut flow = Flow { port: port.copied().unwrap_or_default(), ..Flow::default() };
            self.enter(&mut flow);
            maps::remember::<F>(&self.key, &flow);
        }
    }

    #[inline(always)]
    fn enter(&self, flow: &mut Flow) {
        let passage = self.passage_of(flow);
        if self.direction == Direction::Ingress {
            passage.expect(self.mark, self.now);
        }
        passage.enter(self.now);
    }

    /// Notes that the packet has come out of the host stack; false if it is not known to have entered it.
    #[inline(always)]
    pub fn leaves(&self, port: Option<&Port>) -> bool {
        !self.control && self.known(port).is_some_and(|flow| self.leave(flow))
    }

    #[inline(always)]
    fn leave(&self, flow: &mut Flow) -> bool {
        let passage = self.passage_of(flow);
        if self.direction == Direction::Egress {
            // Before the proof: whoever finds that finds the group it is of.
            passage.mark = self.mark;
        }
        passage.leave(self.now)
    }

    /// Whether the packet has come from its pod's port to the vxlan device without passing the bridge, and so the stack.
    #[inline(always)]
    pub fn has_skipped_stack(&self, packet: &Packet<'_>) -> bool {
        // SAFETY: as in `shortcut`.
        let flow = maps::flow::<F>(&self.key).map(|flow| unsafe { &*flow });
        flow.is_some_and(|flow| flow.port.ifindex != 0 && flow.port.ifindex == packet.ingress_ifindex())
    }

    /// The entry, if it is of this port or of none yet. A flow that turns up at another port is forgotten, not
    /// changed: whoever reads the entry meanwhile must not take the old proof for the new port.
    #[inline(always)]
    fn known(&self, port: Option<&Port>) -> Option<&'static mut Flow> {
        // SAFETY: as in `shortcut`; fields are written whole, the last writer wins, and the loss is one proof.
        let flow = maps::flow::<F>(&self.key).map(|flow| unsafe { &mut *flow })?;
        match port {
            Some(port) if flow.port.ifindex == 0 => flow.port = *port,
            Some(port) if flow.port != *port => {
                maps::forget::<F>(&self.key);
                return None;
            }
            _ => {}
        }
        Some(flow)
    }

    #[inline(always)]
    fn passage_of<'a>(&self, flow: &'a mut Flow) -> &'a mut Passage {
        match self.direction {
            Direction::Egress => &mut flow.egress,
            Direction::Ingress => &mut flow.ingress,
        }
    }
}

/// CLOCK_MONOTONIC in nanoseconds, as of the last tick (Linux 5.11).
#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
