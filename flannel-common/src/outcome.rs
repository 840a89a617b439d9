//! Everything that can happen to a packet in a BPF program: one append-only list, from which the BPF enum,
//! the counters' names and the documentation come.
//!
//! A program run ends in exactly one [`Outcome`], counted once in `METRICS` under ([`Outcome`], [`Hook`]).
//! The enums are the map's key, so that `bpftool map dump` prints their names.

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A program carried it all the way.
    Carried,
    /// Handed on, untouched, to the floor: the host stack and the kernel's own vxlan device.
    Floor,
    /// Not the overlay's business; passed on untouched.
    Foreign,
    /// Dropped here.
    Dropped,
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

            /// The outcome with this number, if this version knows it.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }

            /// Short name, as counters and logs show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What becomes of a packet with this outcome.
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict),+ }
            }

            /// One sentence for the person who reads the counter.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),+ }
            }
        }
    };
}

outcomes! {
    0 Encapsulated "encapsulated" Carried "Wrapped in VXLAN and sent to the peer's public address.",
    1 Decapsulated "decapsulated" Carried "VXLAN stripped and the inner frame received on the vxlan device.",
    2 NotVxlan "not-vxlan" Foreign "Other traffic of the uplink: not UDP to our address and VXLAN port.",
    3 NotIp "not-ip" Floor "The inner frame is neither IPv4 nor IPv6.",
    4 Truncated "truncated" Floor "A header ends before its length.",
    5 NoConfig "no-config" Floor "The agent has not written CONFIG yet.",
    6 NoLease "no-lease" Floor "No peer leases the inner destination, which is not in the network either, or our own.",
    7 ForeignVtep "foreign-vtep" Floor "The inner destination MAC is not the one the lease (egress) or our device (ingress) has.",
    8 TooBig "too-big" Floor "The packet, or a segment of it, exceeds the MTU of the uplink or, as far as is known, of the way to the peer (outer headers included), or of the pod.",
    9 GsoUnknown "gso-unknown" Floor "An aggregate whose segments are neither TCP nor UDP.",
    10 NoRoom "no-room" Floor "The kernel refused to grow or shrink the packet.",
    11 ForeignVni "foreign-vni" Floor "VXLAN of another network.",
    12 VxlanFlags "vxlan-flags" Floor "VXLAN flags other than a plain VNI (RFC 7348 section 5).",
    13 OuterOptions "outer-options" Floor "The outer header has options (IPv4) or extension headers (IPv6).",
    14 OuterFragment "outer-fragment" Floor "The outer packet is a fragment: reassembled by the stack first.",
    15 OuterChecksum "outer-checksum" Floor "The outer UDP checksum is set (IPv4) or missing (IPv6), or the IPv4 header checksum is wrong: judged by the stack.",
    16 OuterLength "outer-length" Floor "The outer IP and UDP lengths disagree with each other or the frame.",
    17 OuterCongested "outer-congested" Floor "No longer counted: what outer ECN says is merged into the inner header.",
    18 GsoAggregate "gso-aggregate" Floor "A received aggregate: decapsulated by the kernel device, which keeps segmentation right.",
    19 InnerIpv6 "inner-ipv6" Floor "IPv6 on its way out: wrapped by the kernel's v6 device, since the outer checksum covers the payload.",
    20 WriteFailed "write-failed" Dropped "Headers could not be written after the packet had been resized.",
    21 Delivered "delivered" Carried "A proven flow: handed to its pod past the host stack.",
    22 FlowNew "flow-new" Floor "No packet of the flow has passed the host stack unchanged yet (TCP: in both directions).",
    23 FlowStale "flow-stale" Floor "The flow was proven too long ago: the host stack is asked again.",
    24 TcpControl "tcp-control" Floor "SYN, FIN or RST: the host stack keeps track of connections, and the flow is forgotten.",
    25 NotCacheable "not-cacheable" Floor "Neither TCP nor UDP, or a fragment, or with IP options or extension headers, or marked before the stack: no flow to remember.",
    26 TtlExpired "ttl-expired" Floor "The time to live, or hop limit, ends here: the host stack answers.",
    27 FlowProven "flow-proven" Foreign "To a pod, or to a peer on the uplink's link, unchanged by the host stack: the flow's next packets may skip it.",
    28 NoFlow "no-flow" Foreign "To a pod, or to a peer on the uplink's link, and of no flow between pods of two nodes, or changed by the host stack.",
    29 FlowCacheOff "flow-cache-off" Foreign "The agent runs without the flow cache.",
    30 UnknownSender "unknown-sender" Dropped "Sender check: no lease holds the inner source.",
    31 ForgedSender "forged-sender" Dropped "Sender check: another node than the outer source holds the inner source.",
    32 LoopedSender "looped-sender" Dropped "Sender check: the inner source is in our own subnet.",
    33 NotEcnCapable "not-ecn-capable" Dropped "Outer ECN says congestion experienced, and the inner packet is not ECN-capable: lost as on the congested router (RFC 6040).",
    34 Forwarded "forwarded" Carried "A proven flow over IPv6: sent past the host stack to the vxlan device, where the kernel wraps it.",
    35 AfterShortcut "after-shortcut" Foreign "Sent to the vxlan device, or to a peer on the uplink's link, past the host stack, and counted where that was done.",
    36 OtherFamily "other-family" Floor "The inner frame is not of the address family that travels over this one: judged by the stack.",
    37 LinkLocal "link-local" Floor "IPv6 from a link-local address or none, which no router forwards: neighbour discovery and the like.",
    38 OnLink "on-link" Carried "A proven flow to a peer on the uplink's link: sent there past the host stack, without a tunnel.",
    39 NoPath "no-path" Floor "The kernel does not say how long a packet may be on its way to the peer: the host stack finds out.",
    40 Unleased "unleased" Floor "The inner destination is in the network, and nobody leases it: the host stack answers, and the agent asks the datastore.",
    41 NotOnLink "not-on-link" Foreign "Other traffic out of the uplink: to no pod of a peer on its link.",
}

/// The place where a program runs.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Program `overlay_egress`: egress of `flannel.<VNI>`.
    OverlayEgress = 0,
    /// Program `underlay_ingress`: ingress of the uplink.
    UnderlayIngress = 1,
    /// Program `overlay_ingress`: ingress of `flannel.<VNI>`.
    OverlayIngress = 2,
    /// Program `pod_egress`: ingress of a pod-side bridge port, which is what the pod sends.
    PodEgress = 3,
    /// Program `pod_ingress`: egress of a pod-side bridge port, which is what the pod gets.
    PodIngress = 4,
    /// Program `underlay_egress`: egress of the uplink, with DirectRouting.
    UnderlayEgress = 5,
}

impl Hook {
    /// Every hook, in order of number.
    pub const ALL: &'static [Self] = &[
        Self::OverlayEgress,
        Self::UnderlayIngress,
        Self::OverlayIngress,
        Self::PodEgress,
        Self::PodIngress,
        Self::UnderlayEgress,
    ];

    /// The hook with this number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// Name of the program at this hook: BPF function, pin and counter label.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::OverlayEgress => "overlay_egress",
            Self::UnderlayIngress => "underlay_ingress",
            Self::OverlayIngress => "overlay_ingress",
            Self::PodEgress => "pod_egress",
            Self::PodIngress => "pod_ingress",
            Self::UnderlayEgress => "underlay_egress",
        }
    }
}

/// Key of `METRICS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricsKey {
    /// How the run ended.
    pub outcome: Outcome,
    /// Where the program ran.
    pub hook: Hook,
}

/// Value of `METRICS`, one per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Runs; an aggregate (GSO, GRO) counts once.
    pub packets: u64,
    /// Bytes of the frame as the program met it, link-layer header included.
    pub bytes: u64,
}

const _: () = assert!(size_of::<MetricsKey>() == 8 && size_of::<Traffic>() == 16);

#[cfg(feature = "user")]
// SAFETY: repr(C), two u64 without padding, every bit pattern is valid.
unsafe impl aya::Pod for Traffic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_and_names_are_unique() {
        for (position, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, position, "{} is out of place", outcome.name());
            assert!(outcome.help().ends_with('.'), "{}", outcome.name());
            for other in &Outcome::ALL[..position] {
                assert_ne!(other.name(), outcome.name());
            }
        }
        for (position, hook) in Hook::ALL.iter().enumerate() {
            assert_eq!(*hook as usize, position);
        }
    }
}
