//! Checks whether an entry of the datastore is a lease that this node can use.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::value::RawValue;

use crate::config::{Backend, NetworkConfig};
use crate::lease::entry::{LeaseAttrs, RawLease, VxlanData};
use crate::lease::key::{KeyError, SubnetKey, same_family};
use crate::lease::public_ips::PublicIps;
use crate::mac::Mac;
use crate::peer::Peer;

/// Why an entry of the datastore is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// The key is not a subnet.
    #[error("the key is no subnet: {0}")]
    Key(#[from] KeyError),
    /// The value is not that of a lease.
    #[error("the value is no lease: {0}")]
    Value(String),
    /// The subnet is not part of the cluster's network.
    #[error("{subnet} is outside the network {network}")]
    OutsideNetwork {
        /// The lease's subnet.
        subnet: IpNet,
        /// `Network` or `IPv6Network`.
        network: IpNet,
    },
    /// The lease has no subnet of an address family that is enabled here.
    #[error("it has no subnet of an address family that the network config enables")]
    OtherFamily,
    /// The lease has addresses of our own pods.
    #[error("it overlaps this node's own subnet {own}")]
    OverlapsOwn {
        /// Our subnet.
        own: SubnetKey,
    },
    /// An earlier lease has some of its addresses.
    #[error("it overlaps the lease {other}{}, which was there first; delete the wrong one", of(node.as_deref()))]
    OverlapsPeer {
        /// The other lease.
        other: SubnetKey,
        /// The name of the other node, where the datastore has one.
        node: Option<Arc<str>>,
    },
    /// The node runs another backend.
    #[error("its backend is {lease:?}, this node's is {node:?}")]
    OtherBackend {
        /// The lease's `BackendType`.
        lease: String,
        /// This node's backend.
        node: &'static str,
    },
    /// The lease has no address of its node.
    #[error("{0} is missing or not the address of a host")]
    NoPublicIp(&'static str),
    /// The lease has no MAC of its node's vxlan device.
    #[error("{field} has no usable VtepMAC: {problem}")]
    NoVtepMac {
        /// `BackendData` or `BackendV6Data`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The node is in another VXLAN network.
    #[error("its VNI is {lease}, this node's is {node}")]
    OtherVni {
        /// The lease's VNI.
        lease: u32,
        /// This node's VNI.
        node: u32,
    },
}

impl RefusalReason {
    /// Returns what to do about it where a lease is a Node.
    pub(super) const fn remedy_in_kubernetes(&self) -> &'static str {
        match self {
            Self::Value(_) | Self::NoPublicIp(_) | Self::NoVtepMac { .. } => {
                "restart flannel on that node, which writes its annotations again"
            }
            Self::OutsideNetwork { .. } | Self::OtherFamily => {
                "kube-controller-manager's --cluster-cidr and flannel's net-conf.json must name the same network"
            }
            Self::Key(_) | Self::OverlapsOwn { .. } | Self::OverlapsPeer { .. } => {
                "delete the wrong node and let it register again"
            }
            Self::OtherBackend { .. } | Self::OtherVni { .. } => {
                "flannel must have the same net-conf.json on all nodes; restart it where the file is an older one"
            }
        }
    }
}

/// The entry of our own subnet.
#[derive(Debug)]
pub(super) struct OwnEntry {
    /// Its public IPs.
    pub holder: PublicIps,
    /// Its VTEP MACs.
    pub macs: Vec<Mac>,
}

/// An entry that this node can use.
pub(super) enum AcceptedLease {
    /// The entry of our own subnet.
    Own(OwnEntry),
    /// The lease of another node.
    Peer(SubnetKey, Box<[Peer]>),
}

/// Checks entries against our subnet and the network config.
#[derive(Debug)]
pub(super) struct LeaseChecker {
    pub own: SubnetKey,
    networks: Vec<IpNet>,
    backend: &'static str,
    /// The `BackendType` that leases must have.
    lease_type: &'static str,
    /// The VNI that leases must have if the backend is vxlan.
    vni: Option<u32>,
}

impl LeaseChecker {
    pub(super) fn new(config: &NetworkConfig, own: SubnetKey) -> Self {
        let vni = match &config.backend {
            Backend::Vxlan(vxlan) => Some(vxlan.vni),
            Backend::HostGw
            | Backend::Udp(_)
            | Backend::Alloc
            | Backend::AwsVpc(_)
            | Backend::Gce
            | Backend::AliVpc(_) => None,
        };
        let networks = config.networks().collect();
        Self {
            own,
            networks,
            backend: config.backend.kind().name(),
            lease_type: config.backend.kind().lease_type(),
            vni,
        }
    }

    pub(super) fn check(&self, lease: &RawLease) -> Result<AcceptedLease, RefusalReason> {
        let key: SubnetKey = lease.key.parse()?;
        if key == self.own {
            let attrs = attrs(lease)?;
            // A Node of Kubernetes has its own entry, which nodes with the same address leave alone.
            let macs = attrs.vtep_macs().filter(|_| lease.node.is_none()).collect();
            return Ok(AcceptedLease::Own(OwnEntry { holder: PublicIps::from(&attrs), macs }));
        }
        let subnets = self.subnets(&key)?;
        let attrs = attrs(lease)?;
        if attrs.backend_type != self.lease_type {
            return Err(RefusalReason::OtherBackend { lease: attrs.backend_type, node: self.backend });
        }
        let peers = subnets.into_iter().map(|subnet| self.peer(subnet, &attrs));
        Ok(AcceptedLease::Peer(key, peers.collect::<Result<_, _>>()?))
    }

    /// Returns the lease's subnets of the address families that the network config enables.
    fn subnets(&self, key: &SubnetKey) -> Result<Vec<IpNet>, RefusalReason> {
        if key.overlaps(&self.own) {
            return Err(RefusalReason::OverlapsOwn { own: self.own });
        }
        let mut subnets = Vec::with_capacity(2);
        for subnet in key.nets() {
            let Some(network) = self.networks.iter().find(|network| same_family(**network, subnet)) else {
                continue;
            };
            if !network.contains(&subnet) {
                return Err(RefusalReason::OutsideNetwork { subnet, network: *network });
            }
            subnets.push(subnet);
        }
        if subnets.is_empty() { Err(RefusalReason::OtherFamily) } else { Ok(subnets) }
    }

    fn peer(&self, subnet: IpNet, attrs: &LeaseAttrs) -> Result<Peer, RefusalReason> {
        let (ip_field, ip, data_field, data) = match subnet {
            IpNet::V4(_) => ("PublicIP", attrs.public_ip.map(IpAddr::V4), "BackendData", &attrs.backend_data),
            IpNet::V6(_) => {
                ("PublicIPv6", attrs.public_ipv6.map(IpAddr::V6), "BackendV6Data", &attrs.backend_v6_data)
            }
        };
        let public_ip = ip.filter(|ip| is_host(*ip)).ok_or(RefusalReason::NoPublicIp(ip_field))?;
        let vtep_mac = match self.vni {
            Some(vni) => Some(vtep_mac(vni, data_field, data.as_deref())?),
            None => None,
        };
        Ok(Peer { subnet, public_ip, vtep_mac })
    }
}

fn vtep_mac(node: u32, field: &'static str, data: Option<&RawValue>) -> Result<Mac, RefusalReason> {
    let refused = |problem: String| RefusalReason::NoVtepMac { field, problem };
    let data = data.ok_or_else(|| refused(format!("{field} is missing")))?;
    let data = VxlanData::parse(data).map_err(|err| match data.get() {
        text if text.starts_with('"') => refused(format!("the text {text} is not JSON")),
        _ => refused(err.to_string()),
    })?;
    match data.vni {
        Some(lease) if lease != node => Err(RefusalReason::OtherVni { lease, node }),
        _ if data.vtep_mac.is_unicast() => Ok(data.vtep_mac),
        _ => Err(refused(format!("{} is not the address of one device", data.vtep_mac))),
    }
}

fn attrs(lease: &RawLease) -> Result<LeaseAttrs, RefusalReason> {
    LeaseAttrs::parse(&lease.value).map_err(|err| RefusalReason::Value(err.to_string()))
}

fn is_host(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255; 4])
}

/// Returns the words that name a node, if its name is known.
fn of(node: Option<&str>) -> String {
    node.map_or_else(String::new, |node| format!(" of the node {node}"))
}
