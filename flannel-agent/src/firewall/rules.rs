//! The firewall's rules for one address family, in their order. Pure: both sinks write this one list.
//!
//! Rules and order are those of flannel's iptables mode. Its nftables mode differs in two of them: it returns what
//! comes from outside the node's subnet before the last rule can masquerade it, and takes a mark for kube-proxy's
//! only if no other bit is set. Here both modes mean the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// kube-proxy masquerades what it has given this mark.
pub(super) const KUBE_PROXY_MARK: u32 = 0x4000;

/// Which rules there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Packets that leave the overlay, or enter it from elsewhere, get the node's address (`--ip-masq`).
    pub(super) masquerade: bool,
    /// With random source ports (unless `--ip-masq-fully-random-disable`).
    pub(super) fully_random: bool,
    /// Forwarding to and from the overlay is accepted (`--iptables-forward-rules`).
    pub(super) forward: bool,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What a chain of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Masquerade,
    Forward,
}

/// A chain of ours; without rules it is not to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) purpose: Purpose,
    pub(super) rules: Vec<Rule>,
}

/// What becomes of the packets to which all that is given here applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// They have kube-proxy's mark.
    pub(super) marked: bool,
    pub(super) source: Option<Place>,
    pub(super) destination: Option<Place>,
    pub(super) verdict: Verdict,
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    In(IpNet),
    NotIn(IpNet),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No further rule of the chain.
    Return,
    Accept,
    Masquerade {
        fully_random: bool,
    },
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    fn multicast(self) -> IpNet {
        match self {
            Self::V4 => Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into(),
            Self::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
        }
    }
}

/// All chains, for a node that holds `subnet` of `network`.
pub(super) fn chains(wish: Wish, network: IpNet, subnet: IpNet) -> Vec<Chain> {
    let masquerade =
        if wish.masquerade { masquerade(wish.fully_random, network, subnet) } else { Vec::new() };
    let forward = if wish.forward { forward(network) } else { Vec::new() };
    vec![
        Chain { purpose: Purpose::Masquerade, rules: masquerade },
        Chain { purpose: Purpose::Forward, rules: forward },
    ]
}

/// No chains.
pub(super) fn none() -> Vec<Chain> {
    [Purpose::Masquerade, Purpose::Forward].map(|purpose| Chain { purpose, rules: Vec::new() }).into()
}

fn masquerade(fully_random: bool, network: IpNet, subnet: IpNet) -> Vec<Rule> {
    use Place::{In, NotIn};
    use Verdict::Return;
    let masquerade = Verdict::Masquerade { fully_random };
    let multicast = Family::of(network).multicast();
    vec![
        // Translating twice goes wrong on some kernels.
        Rule { marked: true, source: None, destination: None, verdict: Return },
        // Pods see each other as they are, and are seen so by what reaches them through their own node.
        Rule::between(In(subnet), In(network), Return),
        Rule::between(In(network), In(subnet), Return),
        Rule::between(NotIn(network), In(subnet), Return),
        Rule::between(In(network), NotIn(multicast), masquerade),
        // So that the answer comes back this way, and not by the other node's default route.
        Rule::between(NotIn(network), In(network), masquerade),
    ]
}

fn forward(network: IpNet) -> Vec<Rule> {
    let (inside, verdict) = (Some(Place::In(network)), Verdict::Accept);
    vec![
        Rule { marked: false, source: inside, destination: None, verdict },
        Rule { marked: false, source: None, destination: inside, verdict },
    ]
}

impl Rule {
    const fn between(source: Place, destination: Place, verdict: Verdict) -> Self {
        Self { marked: false, source: Some(source), destination: Some(destination), verdict }
    }
}
