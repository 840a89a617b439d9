//! What the programs accelerate.

use std::net::IpAddr;

use crate::dataplane::kernel::{Device, DeviceSpec};
use crate::uplink::Uplink;

/// What carries packets of one address family to other nodes.
#[derive(Clone, Copy, Debug)]
pub struct Carrier<'a> {
    /// The node's address on the uplink.
    pub local: IpAddr,
    /// The interface by which packets leave.
    pub uplink: &'a Uplink,
    /// The device that gives them a tunnel; `None` where routes alone lead to other nodes.
    pub device: Option<AcceleratedDevice<'a>>,
}

/// A vxlan device of this node.
#[derive(Clone, Copy, Debug)]
pub struct AcceleratedDevice<'a> {
    /// Its desired properties.
    pub spec: &'a DeviceSpec,
    /// Its real properties.
    pub actual: &'a Device,
}

/// Returns whether packets have tunnels.
#[must_use]
pub fn have_tunnels(carriers: &[Carrier<'_>]) -> bool {
    carriers.iter().any(|carrier| carrier.device.is_some())
}
