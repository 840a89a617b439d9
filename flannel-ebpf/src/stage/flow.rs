//! The flow cache: decides which packets may skip the host stack, and notes what passes it.

use flannel_common::address::Address;
use flannel_common::entered::{self, Entered};
use flannel_common::flow::{Direction, FlowKey, Names, PORT_NS, Port};
use flannel_common::outcome::Outcome;

use crate::clock;
use crate::ip::TCP;
use crate::maps::{self, FlowRef, IpFamily, NodeRef};
use crate::packet::{Ethernet, Packet, PacketAccess as _};
use crate::stage::kept;
use crate::stage::parse::{self, Inner};

/// Returns the node's configuration, for programs that do nothing without the flow cache.
///
/// # Errors
/// [`Outcome::NoConfig`], [`Outcome::FlowCacheOff`].
#[inline(always)]
pub fn node_config() -> Result<NodeRef, Outcome> {
    let node = maps::node_config()?;
    if node.flow_cache() == 0 { Err(Outcome::FlowCacheOff) } else { Ok(node) }
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

/// A flow whose packets may skip the host stack, as far as one packet is concerned.
#[derive(Clone, Copy)]
pub struct Shortcut<A: Address> {
    /// What is known of the flow.
    pub flow: FlowRef<A>,
    /// When it was looked up.
    pub now: u64,
}

impl<A: Address> Shortcut<A> {
    /// Returns the flow's entry, if the stack translates its packets.
    #[inline(always)]
    pub fn translation(&self) -> Option<FlowRef<A>> {
        (self.flow.names() != Names::BOTH).then_some(self.flow)
    }

    /// Returns whether packets of the flow come from this node, whose sender then need not be checked: its lease was looked up in this
    /// generation.
    #[inline(always)]
    pub fn is_from(&self, sender: A, node: NodeRef) -> bool {
        self.flow.passage(Direction::Egress).generation == node.generation() && self.flow.peer() == sender
    }

    /// Returns the MTU in bytes of the pod's port, if the port exists. A packet to a port that is gone would be lost.
    #[inline(always)]
    pub fn port_mtu(&self, packet: &Packet<'_>) -> Option<u32> {
        let (mtu, asked) = self.flow.port_mtu();
        if self.now.wrapping_sub(asked) < PORT_NS {
            return Some(mtu);
        }
        let mtu = packet.mtu_of(self.flow.port_ifindex())?;
        self.flow.set_port_mtu(mtu, self.now);
        Some(mtu)
    }
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
    pub fn read(packet: &Packet<'_>, inner: &Inner<F>, mark: u32) -> Result<Self, Outcome> {
        let parse::Transport { source, destination, control } = parse::transport(packet, inner)?;
        let from = (inner.ip.source(), source);
        let to = (inner.ip.destination(), destination);
        let ((pod, pod_port), (remote, remote_port)) = if EGRESS { (from, to) } else { (to, from) };
        let protocol = [inner.ip.protocol(), 0, 0, 0];
        let key = FlowKey { pod, remote, pod_port, remote_port, protocol };
        Ok(Self { key, control, mark, now: clock::now() })
    }

    /// Returns how the packet may skip the host stack, if it may. `from`: the port and the frame with which it comes from a pod, if it
    /// does.
    ///
    /// # Errors
    /// [`Outcome::TcpControl`], [`Outcome::FlowNew`], [`Outcome::FlowChanged`], [`Outcome::FlowStale`].
    #[inline(always)]
    pub fn shortcut(
        &self,
        node: NodeRef,
        from: Option<(u32, &Ethernet)>,
    ) -> Result<Shortcut<F::Address>, Outcome> {
        if self.control {
            return Err(Outcome::TcpControl);
        }
        let flow = maps::flow::<F>(&self.key).ok_or(Outcome::FlowNew)?;
        let (passage, names) = (flow.passage(Self::DIRECTION), flow.names());
        // A connection tracker that sees only one direction of TCP takes its packets for invalid.
        let is_tcp = self.key.protocol[0] == TCP;
        let reverse = || flow.passage(Self::DIRECTION.reverse());
        // Rules may pass one group and not another. (Egress: the stack sets the group.)
        let is_this_flow = (EGRESS || passage.mark == self.mark)
            && names.include(Names::of_entry(Self::DIRECTION))
            && from.is_none_or(|(ifindex, frame)| flow.comes_by(ifindex, frame))
            && (!EGRESS || flow.is_way_known())
            && (!is_tcp || reverse().is_known());
        let lifetime = match names {
            Names::BOTH if is_tcp => nanoseconds(node.tcp_proof()),
            Names::BOTH => nanoseconds(node.udp_proof()),
            _ if EGRESS => nanoseconds(node.translated_proof()),
            _ => {
                passage.lifetime_after(&flow.passage(Direction::Egress), nanoseconds(node.translated_proof()))
            }
        };
        if is_this_flow && passage.is_proven(self.now, lifetime, node.generation()) {
            return Ok(Shortcut { flow, now: self.now });
        }
        let is_changed = passage.is_changed(self.now) || is_tcp && reverse().is_changed(self.now);
        Err(match is_this_flow && passage.is_known() {
            _ if is_changed => Outcome::FlowChanged,
            true => Outcome::FlowStale,
            false => Outcome::FlowNew,
        })
    }

    /// Notes that the packet enters the host stack, and gives it a token. If it begins or ends a TCP connection, the flow is
    /// removed instead. `port`: where it comes from, if from a pod.
    #[inline(always)]
    pub fn note_entry(&self, packet: &Packet<'_>, inner: &Inner<F>, node: NodeRef, port: Option<&Port>) {
        if self.control {
            maps::remove_flow::<F>(&self.key);
            return;
        }
        // The stack routes it once.
        let Ok(digest) = parse::digest(packet, inner, 1) else { return };
        let token = digest.token(packet.gso_size() != 0);
        packet.set_token(token);
        let entered = Entered {
            at: self.now,
            key: self.key,
            port: port.copied().unwrap_or_default(),
            mark: self.mark,
            hash: packet.flow_hash(),
            token: token.0 as u16,
            from_pod: entered::from_pod(Self::DIRECTION),
            generation: node.generation(),
            ..Entered::default()
        };
        maps::note_entered::<F>(token, entered.sealed(digest));
    }

    /// Notes that the packet has left the host stack. Returns whether this proves its flow ([`Outcome::FlowProven`]), or why not
    /// ([`Outcome::FlowKept`], [`Outcome::FlowCrowded`], [`Outcome::NoFlow`]). `port`: where it goes, if to a pod.
    /// `note_way`: notes in the flow's entry how it reaches the peer, if to one.
    #[inline(always)]
    pub fn note_exit(
        &self,
        packet: &Packet<'_>,
        inner: &Inner<F>,
        port: Option<&Port>,
        note_way: impl Fn(FlowRef<F::Address>),
    ) -> Outcome {
        let carried = packet.take_token();
        if self.control {
            // The stack may have translated it, so that it entered with another name.
            maps::remove_flow::<F>(&self.key);
            return Outcome::NoFlow;
        }
        if let Some(port) = port
            && maps::flow::<F>(&self.key).is_some_and(|flow| flow.port() != *port)
        {
            // The pod has moved, or the bridge does not know where it is and sends copies to all ports.
            maps::remove_flow::<F>(&self.key);
        }
        let Ok(digest) = parse::digest(packet, inner, 0) else { return Outcome::NoFlow };
        let own = digest.token(packet.gso_size() != 0);
        // Test runs cannot set `tc_index`. They show what becomes of a packet that the stack does not change.
        let token = if is_dry_run() { own } else { carried };
        let is_same = match own.compare(token) {
            Some(is_same) => is_same,
            None => {
                if token.is_none() {
                    // Made here, by a proxy say, if the flow has passed the stack before.
                    self.revoke();
                }
                return Outcome::NoFlow;
            }
        };
        let Some(entered) = maps::entered::<F>(token) else { return Outcome::NoFlow };
        let is_record = entered.may_be(Self::DIRECTION, token, packet.flow_hash(), self.now);
        if !is_record || is_same && !entered.is_of(digest) {
            return Outcome::NoFlow;
        }
        maps::forget_entered::<F>(token);
        // A rule may name the addresses before or behind a translation.
        if is_same && (kept::is_kept(&entered.key) || kept::is_kept(&self.key)) {
            return Outcome::FlowKept;
        }
        // Rules decide by the mark with which packets enter (ingress) or leave (egress).
        let mark = if EGRESS { self.mark } else { entered.mark };
        let port = port.unwrap_or(&entered.port);
        let noted = self.note_passage(&entered.key, port, |flow| {
            if is_same {
                // Before the proof that it holds.
                note_way(flow);
            }
            flow.update(Self::DIRECTION, |passage| {
                if is_same {
                    passage.prove(mark, entered.generation, self.now)
                } else {
                    passage.revoke(self.now);
                    false
                }
            })
        });
        match noted {
            Some(true) => Outcome::FlowProven,
            None if is_same => Outcome::FlowCrowded,
            _ => Outcome::NoFlow,
        }
    }

    /// Changes what is known of the flow that has entered with this name, under both of its names. `None`: it gets no entry.
    #[inline(always)]
    fn note_passage(
        &self,
        entered: &FlowKey<F::Address>,
        port: &Port,
        change: impl Fn(FlowRef<F::Address>) -> bool,
    ) -> Option<bool> {
        if *entered == self.key {
            return entry::<F>(&self.key, Names::BOTH, &self.key, port, self.now).map(change);
        }
        let (before, behind) = (Names::of_entry(Self::DIRECTION), Names::of_entry(Self::DIRECTION.reverse()));
        let behind = entry::<F>(&self.key, behind, entered, port, self.now)?;
        let before = entry::<F>(entered, before, &self.key, port, self.now)?;
        change(behind);
        Some(change(before))
    }

    /// Notes that the stack has made a packet of this flow.
    #[inline(always)]
    fn revoke(&self) {
        if let Some(flow) = maps::flow::<F>(&self.key) {
            self.revoke_in(flow);
            if flow.names() != Names::BOTH
                && let Some(before) = maps::flow::<F>(&flow.other())
            {
                self.revoke_in(before);
            }
        }
    }

    #[inline(always)]
    fn revoke_in(&self, flow: FlowRef<F::Address>) -> bool {
        flow.update(Self::DIRECTION, |passage| passage.revoke(self.now));
        false
    }

    /// Returns whether the packet has come from its pod's port to this device without passing bridge and stack.
    #[inline(always)]
    pub fn has_skipped_stack(&self, packet: &Packet<'_>) -> bool {
        let ifindex = maps::flow::<F>(&self.key).map_or(0, FlowRef::port_ifindex);
        ifindex != 0 && ifindex == packet.ingress_ifindex()
    }
}

/// Returns the entry of a flow under one of its names. A new one is made if there is none, or that of another flow, or that of
/// a pod at another port: a program that reads it at the same time must not take an old proof for a new one. `None`: none can be made.
#[inline(always)]
fn entry<F: IpFamily>(
    name: &FlowKey<F::Address>,
    names: Names,
    other: &FlowKey<F::Address>,
    port: &Port,
    now: u64,
) -> Option<FlowRef<F::Address>> {
    if let Some(flow) = maps::flow::<F>(name) {
        if flow.names() == names && flow.other() == *other && flow.port() == *port {
            return Some(flow);
        }
        maps::remove_flow::<F>(name);
    }
    let flow = maps::insert_flow::<F>(name, names, other, now)?;
    flow.set_port(*port);
    Some(flow)
}

#[inline(always)]
fn nanoseconds(milliseconds: u32) -> u64 {
    u64::from(milliseconds) * 1_000_000
}
