//! Turns Nodes into leases. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::value::RawValue;

use super::annotations as names;
use super::node::NodeView;
use crate::config::NetworkConfig;
use crate::lease::entry::LeaseAttrs;
use crate::lease::key::{SubnetKey, same_family};

/// What a Windows node writes until it knows the MAC of its device (flannel's vxlan_windows.go).
const NO_MAC_YET: &str = r#""VtepMAC":"""#;

/// Why a Node gives no lease, or not this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CidrProblem {
    #[error(
        "the node {0} has no podCIDR. kube-controller-manager assigns one if it runs with \
         --allocate-node-cidrs=true and --cluster-cidr=NETWORK; a network that is full has none left"
    )]
    Missing(String),
    #[error(
        "the node {node} has the podCIDR {cidr:?}, which is not a network; delete the node and let it register again"
    )]
    NotANetwork { node: String, cidr: String },
    #[error(
        "the node {0} has more than one podCIDR of an address family; delete the node and let it register again"
    )]
    TooMany(String),
    #[error(
        "the node {node} has the podCIDR {cidr}, which is outside {network}, the network of pods in net-conf.json; \
         kube-controller-manager's --cluster-cidr and the net-conf.json must name the same network"
    )]
    Outside { node: String, cidr: IpNet, network: IpNet },
    #[error(
        "the node {node} has no podCIDR inside {network}, which net-conf.json enables; kube-controller-manager's \
         --cluster-cidr must name a network for each address family"
    )]
    MissingFamily { node: String, network: IpNet },
}

/// Returns the pod subnets that a Node was given.
pub(super) fn subnet(node: &NodeView) -> Result<SubnetKey, CidrProblem> {
    let name = || node.name.to_string();
    let mut key = SubnetKey { v4: None, v6: None };
    for cidr in &node.pod_cidrs {
        // A network of all addresses has the key that stands for no IPv4 subnet.
        let parsed = IpNet::from_str(cidr).ok().filter(|net| net.prefix_len() > 0);
        let parsed =
            parsed.ok_or_else(|| CidrProblem::NotANetwork { node: name(), cidr: cidr.to_string() })?;
        let before = match parsed.trunc() {
            IpNet::V4(v4) => key.v4.replace(v4).map(IpNet::V4),
            IpNet::V6(v6) => key.v6.replace(v6).map(IpNet::V6),
        };
        if before.is_some() {
            return Err(CidrProblem::TooMany(name()));
        }
    }
    if key.nets().next().is_none() { Err(CidrProblem::Missing(name())) } else { Ok(key) }
}

/// Returns the subnets of this node: of each address family that the network config enables, and of no other.
pub(super) fn own_subnet(node: &NodeView, config: &NetworkConfig) -> Result<SubnetKey, CidrProblem> {
    let given = subnet(node)?;
    let name = || node.name.to_string();
    for network in config.networks() {
        let cidr = given
            .nets()
            .find(|cidr| same_family(*cidr, network))
            .ok_or_else(|| CidrProblem::MissingFamily { node: name(), network })?;
        if !network.contains(&cidr) {
            return Err(CidrProblem::Outside { node: name(), cidr, network });
        }
    }
    Ok(SubnetKey {
        v4: given.v4.filter(|_| config.ipv4.is_some()),
        v6: given.v6.filter(|_| config.ipv6.is_some()),
    })
}

/// Returns true if flannel runs on the node and has said how to reach it.
pub(super) fn is_managed(node: &NodeView) -> bool {
    let has_no_mac = |name| node.annotation(name).is_some_and(|data| data.contains(NO_MAC_YET));
    node.annotation(names::MANAGED) == Some("true") && !has_no_mac(names::BACKEND_DATA)
}

/// Returns what a Node says about flannel's lease. A part that cannot be read is left out, or kept as a text, so that
/// the check of leases refuses it.
pub(super) fn attrs(node: &NodeView) -> LeaseAttrs {
    LeaseAttrs {
        public_ip: address(node, names::PUBLIC_IP).filter(|ip: &Ipv4Addr| !ip.is_unspecified()),
        public_ipv6: address(node, names::PUBLIC_IPV6),
        backend_type: node.annotation(names::BACKEND_TYPE).unwrap_or_default().to_owned(),
        backend_data: data(node, names::BACKEND_DATA),
        backend_v6_data: data(node, names::BACKEND_V6_DATA),
    }
}

/// Returns the attributes with the addresses that an administrator has chosen for other nodes to use.
pub(super) fn with_overwrites(mut attrs: LeaseAttrs, node: &NodeView) -> LeaseAttrs {
    attrs.public_ip = address::<Ipv4Addr>(node, names::OVERWRITE).or(attrs.public_ip);
    if attrs.public_ipv6.is_some() {
        attrs.public_ipv6 = address::<Ipv6Addr>(node, names::OVERWRITE_V6).or(attrs.public_ipv6);
    }
    attrs
}

/// Returns the address in an annotation, if there is one.
pub(super) fn address<A: FromStr>(node: &NodeView, name: &str) -> Option<A> {
    node.annotation(name).and_then(|text| text.parse().ok())
}

/// Returns the data of a backend. A text that is not JSON becomes a JSON string.
fn data(node: &NodeView, name: &str) -> Option<Box<RawValue>> {
    let text = node.annotation(name).filter(|text| !matches!(*text, "" | "null"))?;
    let json = RawValue::from_string(text.to_owned());
    json.or_else(|_| serde_json::value::to_raw_value(text)).ok()
}

#[cfg(test)]
mod tests;
