//! The variants that are compared.

use anyhow::Result;
use clap::ValueEnum;

use crate::phase;

/// How packets get from one pod to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Variant {
    /// A veth pair between the pods and nothing else: the upper limit on this machine
    Veth,
    /// The smallest programs that wrap and deliver, with one pod's addresses built in, on kernel-vxlan: the limit for VXLAN
    Limit,
    /// As limit, but received aggregates go through the kernel's device: only if named with --only
    LimitFlat,
    /// Plain routes through the nodes, with flanneld's firewall rules
    HostGw,
    /// The agent with the backend host-gw, --dataplane bpf and the same rules. Only if named with --only
    AgentHostGw,
    /// A router between the nodes with routes to their pods, as a cloud has: the agent with the backend gce, --dataplane netlink and
    /// the same rules. Only if named with --only
    Routed,
    /// As routed, with --dataplane bpf: only if named with --only
    AgentRouted,
    /// The kernel's vxlan device, set up the way flanneld does, with its firewall rules
    KernelVxlan,
    /// As kernel-vxlan, with a flowtable of nftables, by which established flows skip forwarding; left out if the kernel has none
    Flowtable,
    /// The agent with --dataplane netlink and the same rules: should equal kernel-vxlan. Only if named with --only
    AgentNetlink,
    /// The agent with --dataplane bpf --flow-cache=false: every packet passes the host stack and its rules
    AgentNoCache,
    /// The agent of --before with --dataplane bpf and the same rules
    AgentBefore,
    /// The agent with --dataplane bpf and the same rules, which proven flows skip
    AgentBpf,
    /// As kernel-vxlan, to a service's address, which rules as kube-proxy's translate
    KernelVxlanService,
    /// As agent-bpf, to such an address
    AgentService,
    /// As agent-bpf, among 50 000 leases of other nodes: only if named with --only
    AgentCrowd,
}

/// Number of other nodes' leases in [`Variant::AgentCrowd`].
pub(super) const CROWD: u32 = 50_000;

/// The upper limit.
pub(super) const BEST: Variant = Variant::Veth;
/// The upper limit with VXLAN, past the host stack.
pub(super) const LIMIT: Variant = Variant::Limit;
/// What the agent is compared with.
pub(super) const RIVAL: Variant = Variant::KernelVxlan;

impl Variant {
    /// Returns the variant without the service, of one with a service.
    pub(super) fn direct(self) -> Option<Self> {
        match self {
            Self::KernelVxlanService => Some(Self::KernelVxlan),
            Self::AgentService => Some(Self::AgentBpf),
            _ => None,
        }
    }

    /// Returns what it is compared with: the kernel with the same traffic and underlay, the limit with VXLAN, the upper limit.
    pub(super) fn references(self) -> [Self; 3] {
        [self.rival(), LIMIT, BEST]
    }

    /// Returns what the kernel does with the same traffic on the same underlay.
    pub(super) fn rival(self) -> Self {
        match self {
            Self::AgentHostGw => Self::HostGw,
            Self::Routed | Self::AgentRouted => Self::Routed,
            _ if self.direct().is_some() => Self::KernelVxlanService,
            _ => RIVAL,
        }
    }

    /// Returns whether the agent as it is here takes part.
    pub(super) fn is_agent(self) -> bool {
        self != Self::AgentBefore && !self.flags().is_empty()
    }

    /// Returns the agent's flags, where an agent takes part.
    pub(super) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::AgentNetlink | Self::Routed => &["--dataplane=netlink"],
            Self::AgentNoCache => &["--dataplane=bpf", "--flow-cache=false"],
            Self::AgentBefore
            | Self::AgentBpf
            | Self::AgentService
            | Self::AgentCrowd
            | Self::AgentHostGw
            | Self::AgentRouted => &["--dataplane=bpf"],
            _ => &[],
        }
    }

    /// Returns the agent's backend, as flannel spells it.
    pub(super) fn backend(self) -> &'static str {
        match self {
            Self::AgentHostGw => "host-gw",
            Self::Routed | Self::AgentRouted => "gce",
            _ => "vxlan",
        }
    }

    /// Returns whether the smallest programs take part.
    pub(super) fn is_limit(self) -> bool {
        matches!(self, Self::Limit | Self::LimitFlat)
    }

    /// Returns whether it is measured only if it is named.
    fn is_special(self) -> bool {
        matches!(
            self,
            Self::LimitFlat
                | Self::AgentNetlink
                | Self::AgentCrowd
                | Self::AgentHostGw
                | Self::Routed
                | Self::AgentRouted
        )
    }

    /// Returns its name on the command line and in all results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Limit => "limit",
            Self::LimitFlat => "limit-flat",
            Self::HostGw => "host-gw",
            Self::AgentHostGw => "agent-host-gw",
            Self::Routed => "routed",
            Self::AgentRouted => "agent-routed",
            Self::KernelVxlan => "kernel-vxlan",
            Self::Flowtable => "flowtable",
            Self::AgentNetlink => "agent-netlink",
            Self::AgentNoCache => "agent-no-cache",
            Self::AgentBefore => "agent-before",
            Self::AgentBpf => "agent-bpf",
            Self::KernelVxlanService => "kernel-vxlan-service",
            Self::AgentService => "agent-service",
            Self::AgentCrowd => "agent-crowd",
        }
    }

    /// Returns what must have carried the packets.
    pub(super) fn carrier(self) -> Carrier {
        match self {
            Self::Veth | Self::HostGw | Self::Routed => Carrier::Uplink,
            Self::Limit => Carrier::BarePrograms { aggregates: true },
            Self::LimitFlat => Carrier::BarePrograms { aggregates: false },
            Self::KernelVxlan | Self::AgentNetlink | Self::KernelVxlanService => Carrier::KernelDevice,
            Self::Flowtable => Carrier::Flowtable,
            Self::AgentNoCache => Carrier::Programs,
            // An earlier agent may count in another way.
            Self::AgentBefore => Carrier::BarePrograms { aggregates: false },
            Self::AgentBpf | Self::AgentService | Self::AgentCrowd => Carrier::Shortcut,
            Self::AgentHostGw | Self::AgentRouted => Carrier::UntunnelledShortcut,
        }
    }
}

/// What carries a variant's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// The only link there is.
    Uplink,
    /// `flannel.1`, by its interface counters.
    KernelDevice,
    /// The same device, less what the rules of forwarding have counted.
    Flowtable,
    /// BPF programs, not by their counters but by the uplink's; `flannel.1` carries nothing, or at most received `aggregates`.
    BarePrograms {
        /// Whether they carry received aggregates.
        aggregates: bool,
    },
    /// The BPF programs, by their own counters.
    Programs,
    /// The BPF programs from pod to pod, past both host stacks.
    Shortcut,
    /// The same without a tunnel, of all packets of the uplink.
    UntunnelledShortcut,
}

/// Returns the variants of a default run, or those in `only`. An earlier agent needs `--before`, and the flowtable a kernel that
/// has it; `probe` fails if it has not. Named all the same, it is an error.
pub(super) fn chosen(
    only: &[Variant],
    with_before: bool,
    probe: impl FnOnce() -> Result<()>,
) -> Result<Vec<Variant>> {
    let wanted = |variant: &Variant| match variant {
        Variant::AgentBefore => with_before,
        _ if only.is_empty() => !variant.is_special(),
        _ => only.contains(variant),
    };
    let mut variants: Vec<_> = Variant::value_variants().iter().copied().filter(wanted).collect();
    if variants.contains(&Variant::Flowtable)
        && let Err(error) = probe()
    {
        if !only.is_empty() {
            return Err(error.context("the variant flowtable does not exist here"));
        }
        phase::note(&format!("the variant flowtable is left out: {error}"));
        variants.retain(|variant| *variant != Variant::Flowtable);
    }
    Ok(variants)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for variant in Variant::value_variants() {
            let value = variant.to_possible_value().unwrap();
            assert_eq!(value.get_name(), variant.name());
        }
    }

    #[test]
    fn an_earlier_agent_takes_part_where_one_is_named() {
        let chosen = |only: &[Variant], with_before| chosen(only, with_before, || Ok(())).unwrap();
        let special = Variant::value_variants().iter().filter(|variant| variant.is_special()).count();
        assert_eq!(chosen(&[], true).len(), Variant::value_variants().len() - special);
        assert_eq!(chosen(&[Variant::AgentCrowd], false), [Variant::AgentCrowd]);
        assert!(!chosen(&[], false).contains(&Variant::AgentBefore));
        assert_eq!(chosen(&[Variant::AgentBpf], true), [Variant::AgentBefore, Variant::AgentBpf]);
        assert_eq!(chosen(&[Variant::AgentBpf], false), [Variant::AgentBpf]);
    }

    #[test]
    fn a_flowtable_that_does_not_exist_is_left_out_unless_it_is_named() {
        let chosen = |only: &[Variant]| chosen(only, false, || bail!("none here"));
        let usual = chosen(&[]).unwrap();
        assert!(usual.contains(&Variant::KernelVxlan) && !usual.contains(&Variant::Flowtable));
        let error = format!("{:#}", chosen(&[Variant::Flowtable]).unwrap_err());
        assert_eq!(error, "the variant flowtable does not exist here: none here");
        assert_eq!(chosen(&[Variant::Veth]).unwrap(), [Variant::Veth]);
    }
}
