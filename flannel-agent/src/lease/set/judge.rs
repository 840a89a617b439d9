//! Judges one entry of the datastore: is it a lease that this node can use?

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::value::RawValue;

use crate::config::{Backend, NetworkConfig};
use crate::lease::PublicIps;
use crate::lease::key::KeyError;
use crate::lease::{LeaseAttrs, RawLease, SubnetKey, VxlanData};
use crate::mac::Mac;
use crate::peer::Peer;

/// Why an entry of the datastore is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The key is no subnet.
    #[error("the key is no subnet: {0}")]
    Key(#[from] KeyError),
    /// The value is no lease.
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
    /// It claims addresses of our own pods.
    #[error("it overlaps this node's own subnet {own}")]
    OverlapsOwn {
        /// Our subnet.
        own: SubnetKey,
    },
    /// Another lease, which came first, has some of its addresses.
    #[error("it overlaps the lease {other}, which was there first; delete the wrong one")]
    OverlapsPeer {
        /// The other lease.
        other: SubnetKey,
    },
    /// The node runs another backend.
    #[error("its backend is {theirs:?}, this node's is {ours:?}")]
    OtherBackend {
        /// The lease's `BackendType`.
        theirs: String,
        /// Ours.
        ours: &'static str,
    },
    /// Nobody knows where the node is.
    #[error("{0} is missing or not the address of a host")]
    NoPublicIp(&'static str),
    /// Nobody knows the MAC of its vxlan device.
    #[error("{field} has no usable VtepMAC: {problem}")]
    NoVtepMac {
        /// `BackendData` or `BackendV6Data`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The node is in another overlay.
    #[error("its VNI is {theirs}, this node's is {ours}")]
    OtherVni {
        /// The lease's VNI.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
}

/// What an entry is to this node.
pub(super) enum Verdict {
    /// Our own lease, and who holds it.
    Own(PublicIps),
    /// Another node's lease.
    Peer(SubnetKey, Vec<Peer>),
}

/// What entries are measured against.
#[derive(Debug)]
pub(super) struct Judge {
    pub own: SubnetKey,
    networks: Vec<IpNet>,
    backend: &'static str,
    /// What their `BackendType` has to be.
    lease_type: &'static str,
    /// What the leases of a backend with vxlan devices have to agree on.
    vni: Option<u32>,
}

impl Judge {
    pub(super) fn new(config: &NetworkConfig, own: SubnetKey) -> Self {
        let vni = match &config.backend {
            Backend::Vxlan(vxlan) => Some(vxlan.vni),
            Backend::HostGw | Backend::Udp(_) | Backend::Alloc => None,
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

    pub(super) fn judge(&self, lease: &RawLease) -> Result<Verdict, Reason> {
        let key: SubnetKey = lease.key.parse()?;
        if key == self.own {
            return Ok(Verdict::Own(PublicIps::from(&attrs(lease)?)));
        }
        let subnets = self.subnets(&key)?;
        let attrs = attrs(lease)?;
        if attrs.backend_type != self.lease_type {
            return Err(Reason::OtherBackend { theirs: attrs.backend_type, ours: self.backend });
        }
        let peers = subnets.into_iter().map(|subnet| self.peer(subnet, &attrs));
        Ok(Verdict::Peer(key, peers.collect::<Result<_, _>>()?))
    }

    /// The lease's subnets in the families that are enabled here.
    fn subnets(&self, key: &SubnetKey) -> Result<Vec<IpNet>, Reason> {
        if key.overlaps(&self.own) {
            return Err(Reason::OverlapsOwn { own: self.own });
        }
        let mut subnets = Vec::with_capacity(2);
        for subnet in key.nets() {
            let Some(network) = self.networks.iter().find(|network| same_family(**network, subnet)) else {
                continue;
            };
            if !network.contains(&subnet) {
                return Err(Reason::OutsideNetwork { subnet, network: *network });
            }
            subnets.push(subnet);
        }
        if subnets.is_empty() { Err(Reason::OtherFamily) } else { Ok(subnets) }
    }

    fn peer(&self, subnet: IpNet, attrs: &LeaseAttrs) -> Result<Peer, Reason> {
        let (ip_field, ip, data_field, data) = match subnet {
            IpNet::V4(_) => ("PublicIP", attrs.public_ip.map(IpAddr::V4), "BackendData", &attrs.backend_data),
            IpNet::V6(_) => {
                ("PublicIPv6", attrs.public_ipv6.map(IpAddr::V6), "BackendV6Data", &attrs.backend_v6_data)
            }
        };
        let public_ip = ip.filter(|ip| is_host(*ip)).ok_or(Reason::NoPublicIp(ip_field))?;
        let vtep_mac = match self.vni {
            Some(vni) => Some(vtep_mac(vni, data_field, data.as_deref())?),
            None => None,
        };
        Ok(Peer { subnet, public_ip, vtep_mac })
    }
}

fn vtep_mac(ours: u32, field: &'static str, data: Option<&RawValue>) -> Result<Mac, Reason> {
    let refused = |problem: String| Reason::NoVtepMac { field, problem };
    let data = data.ok_or_else(|| refused(format!("{field} is missing")))?;
    let data: VxlanData = serde_json::from_str(data.get()).map_err(|err| refused(err.to_string()))?;
    match data.vni {
        Some(theirs) if theirs != ours => Err(Reason::OtherVni { theirs, ours }),
        _ if is_unicast(data.vtep_mac) => Ok(data.vtep_mac),
        _ => Err(refused(format!("{} is not the address of one device", data.vtep_mac))),
    }
}

fn attrs(lease: &RawLease) -> Result<LeaseAttrs, Reason> {
    serde_json::from_slice(&lease.value).map_err(|err| Reason::Value(err.to_string()))
}

fn same_family(one: IpNet, other: IpNet) -> bool {
    one.addr().is_ipv4() == other.addr().is_ipv4()
}

fn is_host(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255; 4])
}

fn is_unicast(mac: Mac) -> bool {
    mac.0 != [0; 6] && mac.0[0] & 1 == 0
}
