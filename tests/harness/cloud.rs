//! Clouds of the test bed. Nodes find their metadata where a cloud has them, at an address of the underlay's router, and the cloud's
//! interface on the management network. A test programs the router from the cloud's routing table.

pub mod ali;
pub mod aws;
pub mod gce;
mod router;
pub mod server;

pub use router::program;
