//! Another node of the overlay.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::mac::Mac;

/// Another node in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pod subnet.
    pub subnet: IpNet,
    /// Its address on the underlay.
    pub public_ip: IpAddr,
    /// MAC of its vxlan device; `None` with a backend that has none.
    pub vtep_mac: Option<Mac>,
}
