//! Leases of many nodes that do not exist.

use std::net::Ipv4Addr;

use anyhow::Result;
use flannel_tests::Etcd;
use flannel_tests::etcd::PREFIX;
use flannel_tests::subnet_env::Net;

/// A network with room for all of them.
pub(super) const NETWORK: Net<Ipv4Addr> = Net { addr: Ipv4Addr::new(10, 0, 0, 0), len: 8 };

/// The backend of those leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Backend {
    /// The kernel's device and BPF
    Vxlan,
    /// Routes through the peers, all of them on the link
    HostGw,
}

impl Backend {
    /// Returns the backend's type, as flannel spells it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

/// Writes this many leases to etcd.
pub(super) fn fill(etcd: &Etcd, backend: Backend, leases: u32) -> Result<()> {
    etcd.kv().put_all(&(0..leases).map(|number| lease(backend, number)).collect::<Vec<_>>())
}

/// Returns key and value of the lease with this number: 10.1.0.0/24, 10.1.1.0/24 ...
pub(super) fn lease(backend: Backend, number: u32) -> (String, String) {
    let (high, low) = (1 + number / 256, number % 256);
    let node = format!("172.{}.{}.{}", 16 + number / 65_536, number / 256 % 256, low);
    let mac = format!("c6:00:00:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 255, number & 255);
    let data = match backend {
        Backend::Vxlan => format!(r#","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#),
        Backend::HostGw => String::new(),
    };
    let value =
        format!(r#"{{"PublicIP":"{node}","PublicIPv6":null,"BackendType":"{}"{data}}}"#, backend.name());
    (format!("{PREFIX}/subnets/10.{high}.{low}.0-24"), value)
}
