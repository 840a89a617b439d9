//! Everything that can happen to a packet in a BPF program. The programs' enum, the counters' names and their help texts come
//! from this one list, which is append-only.
//!
//! A program run ends in exactly one [`Outcome`], counted once in `METRICS`. Its value, [`Metrics`], has a field for each
//! [`Hook`], and in it one for each outcome, so that `bpftool map dump` prints their names.
//!
//! ```
//! use flannel_common::outcome::{Outcome, Verdict};
//!
//! let outcome = Outcome::from_number(22).unwrap();
//! assert_eq!((outcome.name(), outcome.verdict()), ("flow-new", Verdict::Floor));
//! for outcome in Outcome::ALL {
//!     println!("{:<18} {}", outcome.name(), outcome.help());
//! }
//! ```

/// What happens to a packet because of its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A program has sent it to its destination.
    Carried,
    /// Passed unchanged to the floor: the host stack and the kernel's vxlan device.
    Floor,
    /// Not a packet for the programs; passed on unchanged.
    Foreign,
    /// Dropped by the program.
    Dropped,
}

impl Verdict {
    /// Returns its name, which metrics, counters and traces show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::Floor => "floor",
            Self::Foreign => "foreign",
            Self::Dropped => "dropped",
        }
    }
}

macro_rules! outcomes {
    ($($number:literal $variant:ident $name:literal $verdict:ident $help:literal,)+) => {
        /// How a program run ended. Numbers are stable: append only.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Outcome {
            $(#[doc = $help] $variant = $number,)+
        }

        impl Outcome {
            /// Every outcome, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the outcome with this number, if this version knows it.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }

            /// Returns the short name, which counters and logs show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Returns what happens to a packet with this outcome.
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict),+ }
            }

            /// Explains the outcome to a reader of the counters.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),+ }
            }
        }

        /// What one hook has counted: a field for each [`Outcome`], in order of number.
        #[expect(non_snake_case, reason = "the fields are named as the outcomes, and bpftool prints their names")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct HookMetrics {
            $(#[doc = $help] pub $variant: Traffic,)+
        }
    };
}

outcomes! {
    0 Encapsulated "encapsulated" Carried "Wrapped in VXLAN and sent to the peer's public address.",
    1 Decapsulated "decapsulated" Carried "Unwrapped, and received on the vxlan device.",
    2 NotVxlan "not-vxlan" Foreign "Other traffic, or VXLAN that is not for the uplink's address and whose sender is not accepted. Should the host take it for its own, `overlay_ingress` drops it.",
    3 NotIp "not-ip" Floor "The inner frame is neither IPv4 nor IPv6.",
    4 Truncated "truncated" Floor "The packet ends before its headers do.",
    5 NoConfig "no-config" Floor "The agent has not written CONFIG yet.",
    6 NoLease "no-lease" Floor "The inner destination is in this node's own subnet, or it is outside the network and no peer leases it. The first packets to a service count here.",
    7 ForeignVtep "foreign-vtep" Floor "The inner destination MAC is not that of the lease (egress) or of the vxlan device (ingress).",
    8 TooBig "too-big" Floor "The packet, or a segment of it, is larger than the MTU of the uplink or the known path to the peer (outer headers included), or of the pod.",
    9 GsoUnknown "gso-unknown" Floor "An aggregate whose segments are neither TCP nor UDP.",
    10 NoRoom "no-room" Floor "The kernel refused to grow or shrink the packet.",
    11 ForeignVni "foreign-vni" Floor "A VXLAN packet of another network (VNI).",
    12 VxlanFlags "vxlan-flags" Floor "VXLAN flags other than that of a VNI (RFC 7348 section 5) or, with group policy, of a group.",
    13 OuterOptions "outer-options" Floor "The outer header has options (IPv4) or extension headers (IPv6).",
    14 OuterFragment "outer-fragment" Floor "The outer packet is a fragment; the host stack reassembles it.",
    15 OuterChecksum "outer-checksum" Floor "The outer UDP checksum is set (IPv4) or missing (IPv6), or the outer IPv4 header checksum is wrong; the host stack decides.",
    16 OuterLength "outer-length" Floor "The outer IP and UDP lengths do not agree with each other or with the frame.",
    17 OuterCongested "outer-congested" Floor "No longer counted. Outer ECN is merged into the inner header instead.",
    18 GsoAggregate "gso-aggregate" Floor "A received aggregate; the kernel's vxlan device unwraps it, which keeps its segmentation right.",
    19 InnerIpv6 "inner-ipv6" Floor "IPv6 to a peer; the kernel's IPv6 vxlan device wraps it, since the outer checksum covers the payload.",
    20 WriteFailed "write-failed" Dropped "Headers could not be written after the packet had been resized.",
    21 Delivered "delivered" Carried "A proven flow: sent to its pod past the host stack.",
    22 FlowNew "flow-new" Floor "No packet of the flow is known to have passed the host stack yet with nothing but addresses and ports changed (TCP: in both directions).",
    23 FlowStale "flow-stale" Floor "The proof of the flow has expired; the packet goes through the host stack to renew it.",
    24 TcpControl "tcp-control" Floor "TCP with SYN, FIN or RST. It goes through the host stack, which tracks connections, and the flow is removed from the cache.",
    25 NotCacheable "not-cacheable" Floor "No flow to cache: neither TCP nor UDP, a fragment, IP options or extension headers, or a mark from before the host stack.",
    26 TtlExpired "ttl-expired" Floor "The TTL or hop limit expires here; the host stack answers.",
    27 FlowProven "flow-proven" Foreign "Left the host stack to a pod or to a peer on the uplink's link, with nothing but addresses and ports changed. The flow's next packets may skip the host stack.",
    28 NoFlow "no-flow" Foreign "Left the host stack to a pod or to a peer on the uplink's link, but is of no flow between pods of two nodes, or was changed.",
    29 FlowCacheOff "flow-cache-off" Foreign "The agent runs without the flow cache.",
    30 UnknownSender "unknown-sender" Dropped "Sender check: no lease covers the inner source, or the outer source is no node's public address.",
    31 ForgedSender "forged-sender" Dropped "Sender check: the inner source is of another node than the one whose public address is the outer source.",
    32 LoopedSender "looped-sender" Dropped "Sender check: the inner source is in this node's own subnet.",
    33 NotEcnCapable "not-ecn-capable" Dropped "Outer ECN reports congestion, and the inner packet does not support ECN: dropped, as RFC 6040 requires.",
    34 Forwarded "forwarded" Carried "A proven flow over IPv6: sent past the host stack to the vxlan device, where the kernel wraps it.",
    35 AfterShortcut "after-shortcut" Foreign "Sent past the host stack to the vxlan device, or without a tunnel out of the uplink. Already counted where it was sent.",
    36 OtherFamily "other-family" Floor "The inner frame is not of the family of the outer packet; the host stack decides.",
    37 LinkLocal "link-local" Floor "IPv6 from a link-local or unspecified address, which no router forwards; neighbour discovery, for example.",
    38 OnLink "on-link" Carried "A proven flow to a peer that routes lead to, on the uplink's link or behind a cloud's router: sent past the host stack, without a tunnel.",
    39 NoPath "no-path" Floor "The kernel does not know the MTU of the path to the peer; the host stack finds it out.",
    40 Unleased "unleased" Floor "The inner destination is in the network, but not leased. The host stack answers, and the agent looks in the datastore.",
    41 NotOnLink "not-on-link" Foreign "Other traffic that leaves the uplink: not to a pod of a peer that routes lead to.",
    42 HandedOver "handed-over" Carried "Unwrapped in the driver; `underlay_ingress` continues with it.",
    43 MaybeAggregate "maybe-aggregate" Floor "XDP in generic mode cannot tell whether this is an aggregate; TC unwraps it.",
    44 FlowChanged "flow-changed" Floor "The host stack changes packets of the flow or answers in its place (a rule that sets DSCP or TTL, SYNPROXY, a transparent proxy): all of them stay in the stack.",
    45 Obstructed "obstructed" Floor "A program or queue of others, which BPF would pass by, is on the way: the kernel carries the packet. The agent's log names it.",
    46 OtherAddress "other-address" Floor "VXLAN from an accepted sender that is not for the uplink's address or comes in elsewhere, or IPsec. The host unwraps it.",
    47 UncheckedSender "unchecked-sender" Dropped "Sender check: it came in where no program has accepted its sender: from this node itself, from an unknown node to another address, in fragments that hide the inner source, or while the agent's program was detached.",
    48 FlowKept "flow-kept" Floor "A rule of the host looks at each packet of this flow: it stays in the host stack. The agent's log names the rule.",
    49 FlowCrowded "flow-crowded" Foreign "Left the host stack as `flow-proven`, but the flow gets no entry yet: there are more flows than entries (`--max-flows`), and they take turns.",
    50 HandoverLost "handover-lost" Floor "XDP has removed the outer headers, and what it said of them is lost: a program of others copied the packet first. The host drops it.",
}

/// A bit for each outcome, by number: whether the program drops the packet.
const DROPS: u64 = {
    assert!(Outcome::ALL.len() <= u64::BITS as usize);
    let (mut drops, mut number) = (0, 0);
    while number < Outcome::ALL.len() {
        if matches!(Outcome::ALL[number].verdict(), Verdict::Dropped) {
            drops |= 1 << number;
        }
        number += 1;
    }
    drops
};

impl Outcome {
    /// Returns whether the verdict is [`Verdict::Dropped`]. Programs ask in every run.
    #[inline(always)]
    #[must_use]
    pub const fn is_drop(self) -> bool {
        DROPS >> self as u32 & 1 != 0
    }
}

macro_rules! hooks {
    ($($number:literal $variant:ident $program:literal $kind:ident $help:literal,)+) => {
        /// A place where a program runs.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Hook {
            $(#[doc = concat!("Program `", $program, "`: ", $help)] $variant = $number,)+
        }

        impl Hook {
            /// Every hook, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the hook with this number, if this version knows it.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }

            /// Returns whether TC runs the program (a classifier). If not, XDP does.
            #[must_use]
            pub const fn is_classifier(self) -> bool {
                match self { $(Self::$variant => matches!(Kind::$kind, Kind::Tc)),+ }
            }

            /// Returns the name of the program at this hook: BPF function, pin and counter label.
            #[must_use]
            pub const fn program(self) -> &'static str {
                match self { $(Self::$variant => $program),+ }
            }
        }

        /// Value of `METRICS`, one for each CPU: a field for each [`Hook`], in order of number.
        #[expect(non_snake_case, reason = "the fields are named as the hooks, and bpftool prints their names")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Metrics {
            $(#[doc = concat!("Of program `", $program, "`.")] pub $variant: HookMetrics,)+
        }
    };
}

/// What runs a program.
enum Kind {
    Tc,
    Xdp,
}

hooks! {
    0 OverlayEgress "overlay_egress" Tc "egress of `flannel.<VNI>`.",
    1 UnderlayIngress "underlay_ingress" Tc "ingress of the uplink.",
    2 OverlayIngress "overlay_ingress" Tc "ingress of `flannel.<VNI>`.",
    3 PodEgress "pod_egress" Tc "ingress of a pod's bridge port, for packets from the pod.",
    4 PodIngress "pod_ingress" Tc "egress of a pod's bridge port, for packets to the pod.",
    5 UnderlayEgress "underlay_egress" Tc "egress of the uplink, with DirectRouting.",
    6 UnderlayXdp "underlay_xdp" Xdp "XDP of the uplink.",
    7 SideIngress "side_ingress" Tc "ingress of other interfaces by which outer packets may come in.",
}

impl Hook {
    /// Returns the hooks whose programs TC runs, in order of number.
    pub fn classifiers() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|hook| hook.is_classifier())
    }
}

/// What a program run is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricsKey {
    /// How the run ended.
    pub outcome: Outcome,
    /// Where the program ran.
    pub hook: Hook,
}

impl MetricsKey {
    /// Every key, in the order of the counters in [`Metrics`].
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |hook| Outcome::ALL.iter().map(move |outcome| Self { outcome: *outcome, hook });
        Hook::ALL.iter().copied().flat_map(of)
    }

    /// Returns the position of the counter in [`Metrics`], taken as an array of [`Traffic`].
    #[inline(always)]
    #[must_use]
    pub const fn position(self) -> usize {
        self.hook as usize * Outcome::ALL.len() + self.outcome as usize
    }
}

/// Program runs with the same outcome at the same hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Program runs. An aggregate (GSO, GRO) counts once.
    pub packets: u64,
    /// Bytes of the frames before the program changed them, link-layer header included.
    pub bytes: u64,
}

impl Metrics {
    /// The number of counters.
    pub const COUNTERS: usize = Hook::ALL.len() * Outcome::ALL.len();

    /// Returns the counters, in the order of [`MetricsKey::all`].
    #[must_use]
    pub const fn traffic(&self) -> &[Traffic] {
        // SAFETY: all fields, at both levels, are `Traffic` without padding (asserted below).
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), Self::COUNTERS) }
    }
}

const _: () =
    assert!(size_of::<Traffic>() == 16 && size_of::<Metrics>() == Metrics::COUNTERS * size_of::<Traffic>());
// The kernel refuses longer values of each CPU (`PCPU_MIN_UNIT_SIZE`).
const _: () = assert!(size_of::<Metrics>() <= 32 << 10);

#[cfg(feature = "user")]
// SAFETY: repr(C), u64 without padding, every bit pattern is valid.
unsafe impl aya::Pod for Metrics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_and_names_are_unique() {
        for (position, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, position, "{} is out of place", outcome.name());
            assert!(outcome.help().ends_with('.'), "{}", outcome.name());
            assert_eq!(outcome.is_drop(), outcome.verdict() == Verdict::Dropped, "{}", outcome.name());
            for other in &Outcome::ALL[..position] {
                assert_ne!(other.name(), outcome.name());
            }
        }
        for (position, hook) in Hook::ALL.iter().enumerate() {
            assert_eq!(*hook as usize, position);
        }
    }

    #[test]
    fn a_field_has_the_position_of_its_names() {
        let mut metrics = Metrics::default();
        metrics.PodEgress.FlowNew.packets = 3;
        metrics.SideIngress.UncheckedSender.bytes = 5;
        for (key, traffic) in MetricsKey::all().zip(metrics.traffic()) {
            let expected = match (key.hook, key.outcome) {
                (Hook::PodEgress, Outcome::FlowNew) => Traffic { packets: 3, bytes: 0 },
                (Hook::SideIngress, Outcome::UncheckedSender) => Traffic { packets: 0, bytes: 5 },
                _ => Traffic::default(),
            };
            assert_eq!(*traffic, expected, "{key:?}");
        }
        assert!(MetricsKey::all().enumerate().all(|(position, key)| key.position() == position));
    }
}
