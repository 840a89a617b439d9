//! Clouds of the test bed. Nodes find their metadata where a cloud has them, at an address of the underlay's router, and the cloud's
//! interface on the management network. A test programs the router from the cloud's routing table.

pub mod ali;
pub mod aws;
pub mod gce;
mod router;
pub mod server;

use std::net::IpAddr;

use anyhow::Result;

pub use router::program;

/// A cloud whose instances are the nodes of a cluster.
pub trait Cloud {
    /// Returns the variable that leads agents to the cloud's interface.
    fn environment(&self) -> (String, String);

    /// Returns the routes that the cloud's router has: destinations, and the addresses of the nodes that they lead to.
    fn next_hops(&self) -> Result<Vec<(String, IpAddr)>>;
}
