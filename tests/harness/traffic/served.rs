//! Hosts behind a service.

use std::net::{IpAddr, SocketAddr};

use super::Host;
use crate::netns::NetNs;

/// A service that leads to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The service's address and port.
    pub address: SocketAddr,
    /// The port of the host that it leads to.
    pub port: u16,
}

/// A host that others reach by a service.
#[derive(Clone, Copy)]
pub struct Behind<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// The service.
    pub service: Served,
}

impl Host for Behind<'_> {
    fn netns(&self) -> &NetNs {
        self.host.netns()
    }

    fn ip(&self) -> IpAddr {
        self.host.ip()
    }

    fn service(&self) -> Option<Served> {
        Some(self.service)
    }

    fn cpu(&self) -> Option<usize> {
        self.host.cpu()
    }
}

/// Returns the port of a host's server: the one that its service leads to, or any free one, which 0 means.
pub(super) fn port_of(host: &dyn Host) -> u16 {
    host.service().map_or(0, |service| service.port)
}

/// Returns the address at which others reach a server of the host.
pub(super) fn reached_at(host: &dyn Host, server: SocketAddr) -> SocketAddr {
    host.service().map_or(server, |service| service.address)
}
