//! Computes the ordered list of firewall rules for one IP version. Pure; iptables and nftables both write this list.
//!
//! Rules and order are those of flannel's iptables mode. flannel's nftables mode differs in two rules. It returns packets
//! from outside the node's subnet before the last rule can masquerade them. It recognizes kube-proxy's mark only if no
//! other bit is set. Here both modes mean the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The mark by which kube-proxy selects packets that it masquerades itself.
pub(super) const KUBE_PROXY_MARK: u32 = 0x4000;

/// Which rules to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleOptions {
    /// Give packets that leave the overlay, or enter it from outside, the node's address (`--ip-masq`).
    pub masquerade: bool,
    /// Choose the source ports of masqueraded packets at random (unless `--ip-masq-fully-random-disable`).
    pub fully_random: bool,
    /// Accept packets that are forwarded to and from the overlay (`--iptables-forward-rules`).
    pub forward: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IpVersion {
    V4,
    V6,
}

/// What a chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Masquerade,
    Forward,
}

impl Purpose {
    pub(super) const ALL: [Self; 2] = [Self::Masquerade, Self::Forward];
}

/// A chain of flannel's. Without rules, it is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) purpose: Purpose,
    pub(super) rules: Vec<Rule>,
}

/// A target for the packets that meet all given conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Match only packets with kube-proxy's mark.
    pub(super) marked: bool,
    pub(super) source: Option<AddressMatch>,
    pub(super) destination: Option<AddressMatch>,
    pub(super) target: Target,
}

/// A condition on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressMatch {
    In(IpNet),
    NotIn(IpNet),
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Skips the rest of the chain.
    Return,
    Accept,
    Masquerade {
        fully_random: bool,
    },
}

impl IpVersion {
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

/// Whose rules are meant. A node can belong to several networks, with an agent for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// All networks of the node.
    Everyone,
    /// These networks. Rules of the others stay.
    Networks(&'a [IpNet]),
}

impl Owner<'_> {
    /// Returns whether a rule that names one of these words (`10.5.0.0/16`) belongs to the owner.
    pub(super) fn owns<'t>(self, mut words: impl Iterator<Item = &'t str>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Networks(own) => {
                words.any(|word| word.parse::<IpNet>().is_ok_and(|named| own.contains(&named)))
            }
        }
    }
}

/// Returns all chains for a node that holds `subnet` of `network`.
pub(super) fn chains(options: RuleOptions, network: IpNet, subnet: IpNet) -> Vec<Chain> {
    let masquerade =
        if options.masquerade { masquerade(options.fully_random, network, subnet) } else { Vec::new() };
    let forward = if options.forward { forward(network) } else { Vec::new() };
    vec![
        Chain { purpose: Purpose::Masquerade, rules: masquerade },
        Chain { purpose: Purpose::Forward, rules: forward },
    ]
}

/// Returns all chains without rules, so that they are removed.
pub(super) fn none() -> Vec<Chain> {
    Purpose::ALL.map(|purpose| Chain { purpose, rules: Vec::new() }).into()
}

fn masquerade(fully_random: bool, network: IpNet, subnet: IpNet) -> Vec<Rule> {
    use AddressMatch::{In, NotIn};
    use Target::Return;
    let masquerade = Target::Masquerade { fully_random };
    let multicast = IpVersion::of(network).multicast();
    vec![
        // kube-proxy masquerades these packets; translating twice fails on some kernels.
        Rule { marked: true, source: None, destination: None, target: Return },
        // Pods see each other's real addresses. So do clients that reach a pod through its own node.
        Rule::between(In(subnet), In(network), Return),
        Rule::between(In(network), In(subnet), Return),
        Rule::between(NotIn(network), In(subnet), Return),
        Rule::between(In(network), NotIn(multicast), masquerade),
        // Makes the answer come back through this node instead of the other node's default route.
        Rule::between(NotIn(network), In(network), masquerade),
    ]
}

fn forward(network: IpNet) -> Vec<Rule> {
    let (inside, target) = (Some(AddressMatch::In(network)), Target::Accept);
    vec![
        Rule { marked: false, source: inside, destination: None, target },
        Rule { marked: false, source: None, destination: inside, target },
    ]
}

impl Rule {
    const fn between(source: AddressMatch, destination: AddressMatch, target: Target) -> Self {
        Self { marked: false, source: Some(source), destination: Some(destination), target }
    }
}
