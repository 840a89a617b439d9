//! The flow cache: decides which packets may skip the host stack, and notes what passes it.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use flannel_common::fingerprint::Fingerprint;
use flannel_common::flow::{Direction, FlowKey, Passed, Port};
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

/// [`flannel_common::abi::DRY_RUN`]
#[unsafe(no_mangle)]
static DRY_RUN: u8 = 0;

/// Returns whether the program only shows what it does with a packet. (Costs nothing: the verifier knows the value.)
#[inline(always)]
fn is_dry_run() -> bool {
    // SAFETY: a byte that lives as long as the program. The loader sets it, which the compiler must not know.
    unsafe { (&raw const DRY_RUN).read_volatile() != 0 }
}

/// How a packet skips the host stack.
pub struct Shortcut {
    /// Mark with which the flow's packets leave the stack, if they go to a peer.
    pub mark: u32,
    /// Where the pod is.
    pub port: Port,
}

/// A packet from a pod of this node.
pub type FromPod<F> = FlowPacket<F, true>;
/// A packet to a pod of this node.
pub type ToPod<F> = FlowPacket<F, false>;

/// What the flow cache needs to know of a packet. Its direction is known where programs are compiled, so that the verifier
/// knows which part of an entry they change.
pub struct FlowPacket<F: IpFamily, const EGRESS: bool> {
    key: FlowKey<F::Address>,
    /// Whether it begins or ends a TCP connection.
    control: bool,
    /// Group policy's mark ([`flannel_common::flow::Passage::mark`]).
    mark: u32,
    now: u64,
}

impl<F: IpFamily, const EGRESS: bool> FlowPacket<F, EGRESS> {
    const DIRECTION: Direction = if EGRESS { Direction::Egress } else { Direction::Ingress };

    /// Reads which flow a packet belongs to. `mark`: the mark that stands for its group.
    ///
    /// # Errors
    /// [`Outcome::NotCacheable`], [`Outcome::Truncated`].
    #[inline(always)]
    pub fn read(packet: &Packet<'_>, inner: &Inner<'_, F>, mark: u32) -> Result<Self, Outcome> {
        let parse::Transport { source, destination, control } = parse::transport(packet, inner)?;
        let from = (inner.ip.source(), source);
        let to = (inner.ip.destination(), destination);
        let ((pod, pod_port), (remote, remote_port)) = if EGRESS { (from, to) } else { (to, from) };
        let protocol = [inner.ip.protocol(), 0, 0, 0];
        let key = FlowKey { pod, remote, pod_port, remote_port, protocol };
        Ok(Self { key, control, mark, now: now() })
    }

    /// Returns how the packet may skip the host stack, if it may. `port`: where it comes from, if from a pod.
    ///
    /// # Errors
    /// [`Outcome::TcpControl`], [`Outcome::FlowNew`], [`Outcome::FlowChanged`], [`Outcome::FlowStale`].
    #[inline(always)]
    pub fn shortcut(&self, port: Option<&Port>) -> Result<Shortcut, Outcome> {
        if self.control {
            return Err(Outcome::TcpControl);
        }
        let flow = maps::flow::<F>(&self.key).ok_or(Outcome::FlowNew)?;
        let (passage, known_port) = (flow.proof(Self::DIRECTION), flow.port());
        if passage.is_changed(self.now) {
            return Err(Outcome::FlowChanged);
        }
        // A connection tracker that sees only one direction of TCP takes its packets for invalid.
        if self.key.protocol[0] == TCP {
            let reverse = flow.proof(Self::DIRECTION.reverse());
            if reverse.is_changed(self.now) {
                return Err(Outcome::FlowChanged);
            }
            if !reverse.is_known() {
                return Err(Outcome::FlowNew);
            }
        }
        // Rules may pass one group and not another. (Egress: the stack sets the group.)
        let other_group = !EGRESS && passage.mark != self.mark;
        if !passage.is_known() || other_group || port.is_some_and(|port| known_port != *port) {
            return Err(Outcome::FlowNew);
        }
        let shortcut = Shortcut { mark: passage.mark, port: known_port };
        if passage.is_proven(self.now) { Ok(shortcut) } else { Err(Outcome::FlowStale) }
    }

    /// Notes that the packet enters the host stack, and gives it a token. If it begins or ends a TCP connection, the flow is
    /// removed instead. `port`: where the pod is, if that is known here.
    #[inline(always)]
    pub fn note_entry(&self, packet: &Packet<'_>, inner: &Inner<'_, F>, port: Option<&Port>) {
        if self.control {
            maps::remove_flow::<F>(&self.key);
            return;
        }
        // The stack routes it once.
        let Ok(fingerprint) = self.fingerprint(packet, inner, 1) else { return };
        packet.set_token(fingerprint.token());
        let Some(flow) = self.entry_at(port).or_else(|| self.new_entry(port)) else { return };
        flow.update(Self::DIRECTION, |passage| {
            if !EGRESS {
                passage.expect(self.mark, self.now);
            }
            passage.enter(fingerprint, self.now);
        });
    }

    /// Notes that the packet has left the host stack. Returns whether this proves its flow.
    #[inline(always)]
    pub fn note_exit(&self, packet: &Packet<'_>, inner: &Inner<'_, F>, port: Option<&Port>) -> bool {
        let carried = packet.take_token();
        if self.control {
            return false;
        }
        let Some(flow) = self.entry_at(port) else { return false };
        let Ok(fingerprint) = self.fingerprint(packet, inner, 0) else { return false };
        // Test runs cannot set `tc_index`. They show what becomes of a packet that the stack does not change.
        let token = if is_dry_run() { fingerprint.token() } else { carried };
        flow.update(Self::DIRECTION, |passage| {
            if EGRESS {
                passage.mark = self.mark;
            }
            passage.leave(fingerprint, token, self.now) == Passed::Proven
        })
    }

    /// Adds the flow's entry.
    #[inline(always)]
    fn new_entry(&self, port: Option<&Port>) -> Option<FlowRef> {
        let flow = maps::insert_flow::<F>(&self.key)?;
        if let Some(port) = port {
            flow.set_port(*port);
        }
        Some(flow)
    }

    /// Returns the packet's fingerprint after this number of routers.
    ///
    /// # Errors
    /// [`Outcome::Truncated`]
    #[inline(always)]
    fn fingerprint(
        &self,
        packet: &Packet<'_>,
        inner: &Inner<'_, F>,
        hops: u8,
    ) -> Result<Fingerprint, Outcome> {
        parse::digest(self.key.digest(), packet, inner, hops)
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
