//! The flow cache: decides which packets may skip the host stack, and notes what passes it.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use flannel_common::flow::{Direction, Flow, FlowKey, Passage, Port};
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;

use crate::ip::TCP;
use crate::maps::{self, FlowRef, IpFamily};
use crate::packet::Packet;
use crate::stage::parse::{self, Inner};

/// Copies the node's configuration, for programs that do nothing without the flow cache.
///
/// # Errors
/// [`Outcome::NoConfig`], [`Outcome::FlowCacheOff`].
#[inline(always)]
pub fn node_config() -> Result<NodeConfig, Outcome> {
    let node = maps::node_config()?;
    if node.flow_cache == 0 { Err(Outcome::FlowCacheOff) } else { Ok(node) }
}

/// What the flow cache needs to know of a packet.
pub struct FlowPacket<F: IpFamily> {
    key: FlowKey<F::Address>,
    direction: Direction,
    /// Whether it begins or ends a TCP connection.
    control: bool,
    /// Group policy's mark ([`flannel_common::flow::Passage::mark`]).
    mark: u32,
    now: u64,
}

impl<F: IpFamily> FlowPacket<F> {
    /// Reads which flow a packet belongs to. `mark`: the mark that stands for its group.
    ///
    /// # Errors
    /// [`Outcome::NotCacheable`], [`Outcome::Truncated`].
    #[inline(always)]
    pub fn read(
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

    /// Returns the flow's entry if this packet may skip the host stack. `port`: where it comes from, if from a pod.
    ///
    /// # Errors
    /// [`Outcome::TcpControl`], [`Outcome::FlowNew`], [`Outcome::FlowStale`].
    #[inline(always)]
    pub fn shortcut(&self, port: Option<&Port>) -> Result<Flow, Outcome> {
        if self.control {
            return Err(Outcome::TcpControl);
        }
        let flow = maps::flow::<F>(&self.key).ok_or(Outcome::FlowNew)?.load();
        let (passage, reverse) = match self.direction {
            Direction::Egress => (&flow.egress, &flow.ingress),
            Direction::Ingress => (&flow.ingress, &flow.egress),
        };
        // A connection tracker that sees only one direction of TCP takes its packets for invalid.
        let known = passage.is_known() && (self.key.protocol != TCP || reverse.is_known());
        // Rules may pass one group and not another. (Egress: the stack sets the group.)
        let other_group = self.direction == Direction::Ingress && passage.mark != self.mark;
        if !known || other_group || port.is_some_and(|port| flow.port != *port) {
            return Err(Outcome::FlowNew);
        }
        if passage.is_proven(self.now) { Ok(flow) } else { Err(Outcome::FlowStale) }
    }

    /// Notes that the packet enters the host stack. If it begins or ends a TCP connection, the flow is removed.
    /// `port`: where the pod is, if that is known here.
    #[inline(always)]
    pub fn note_entry(&self, port: Option<&Port>) {
        if self.control {
            maps::remove_flow::<F>(&self.key);
        } else if let Some(flow) = self.entry_at(port) {
            flow.update(self.direction, |passage| self.enter(passage));
        } else {
            let mut flow = Flow { port: port.copied().unwrap_or_default(), ..Flow::default() };
            self.enter(match self.direction {
                Direction::Egress => &mut flow.egress,
                Direction::Ingress => &mut flow.ingress,
            });
            maps::insert_flow::<F>(&self.key, &flow);
        }
    }

    #[inline(always)]
    fn enter(&self, passage: &mut Passage) {
        if self.direction == Direction::Ingress {
            passage.expect(self.mark, self.now);
        }
        passage.enter(self.now);
    }

    /// Notes that the packet has left the host stack. Returns false if it is not known to have entered it.
    #[inline(always)]
    pub fn note_exit(&self, port: Option<&Port>) -> bool {
        !self.control
            && self.entry_at(port).is_some_and(|flow| {
                flow.update(self.direction, |passage| {
                    if self.direction == Direction::Egress {
                        passage.mark = self.mark;
                    }
                    passage.leave(self.now)
                })
            })
    }

    /// Returns whether the packet has come from its pod's port to this device without passing bridge and stack.
    #[inline(always)]
    pub fn has_skipped_stack(&self, packet: &Packet<'_>) -> bool {
        let ifindex = maps::flow::<F>(&self.key).map_or(0, |flow| flow.port().ifindex);
        ifindex != 0 && ifindex == packet.ingress_ifindex()
    }

    /// Returns the entry if its port is this one. An entry without a port gets it.
    ///
    /// An entry of another port is removed instead of changed: a program that reads it at the same time must not take
    /// the old proof for one of the new port.
    #[inline(always)]
    fn entry_at(&self, port: Option<&Port>) -> Option<FlowRef> {
        let flow = maps::flow::<F>(&self.key)?;
        if let Some(port) = port {
            let known = flow.port();
            if known.ifindex == 0 {
                flow.set_port(*port);
            } else if known != *port {
                maps::remove_flow::<F>(&self.key);
                return None;
            }
        }
        Some(flow)
    }
}

/// Reads CLOCK_MONOTONIC in nanoseconds, as of the last tick (Linux 5.11).
#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
