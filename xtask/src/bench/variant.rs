//! The variants that are compared.

use clap::ValueEnum;

/// How packets get from one pod to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Variant {
    /// A veth pair between the pods and nothing else: the upper limit on this machine
    Veth,
    /// Plain routes through the nodes, with flanneld's firewall rules
    HostGw,
    /// The kernel's vxlan device, set up the way flanneld does, with its firewall rules
    KernelVxlan,
    /// The agent with --dataplane netlink and the same rules: should equal kernel-vxlan
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

    /// Returns what it is compared with: the kernel's vxlan with the same traffic.
    pub(super) fn rival(self) -> Self {
        if self.direct().is_some() { Self::KernelVxlanService } else { RIVAL }
    }

    /// Returns its name on the command line and in all results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::HostGw => "host-gw",
            Self::KernelVxlan => "kernel-vxlan",
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
            Self::Veth | Self::HostGw => Carrier::Uplink,
            Self::KernelVxlan | Self::AgentNetlink | Self::KernelVxlanService => Carrier::KernelDevice,
            Self::AgentNoCache | Self::AgentBefore => Carrier::Programs,
            Self::AgentBpf | Self::AgentService | Self::AgentCrowd => Carrier::Shortcut,
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
    /// The BPF programs, by their own counters.
    Programs,
    /// The BPF programs from pod to pod, past both host stacks.
    Shortcut,
}

/// Returns all variants, or those in `only`. An earlier agent needs `--before`, and the crowd has to be in `only`.
pub(super) fn chosen(only: &[Variant], with_before: bool) -> Vec<Variant> {
    let wanted = |variant: &Variant| match variant {
        Variant::AgentBefore => with_before,
        Variant::AgentCrowd => only.contains(variant),
        _ => only.is_empty() || only.contains(variant),
    };
    Variant::value_variants().iter().copied().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(chosen(&[], true).len(), Variant::value_variants().len() - 1);
        assert_eq!(chosen(&[Variant::AgentCrowd], false), [Variant::AgentCrowd]);
        assert!(!chosen(&[], false).contains(&Variant::AgentBefore));
        assert_eq!(chosen(&[Variant::AgentBpf], true), [Variant::AgentBefore, Variant::AgentBpf]);
        assert_eq!(chosen(&[Variant::AgentBpf], false), [Variant::AgentBpf]);
    }
}
