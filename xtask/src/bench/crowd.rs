//! Leases of many nodes that do not exist, for an agent to live among.

use std::net::Ipv4Addr;

use anyhow::Result;
use flannel_tests::Etcd;
use flannel_tests::etcd::PREFIX;
use flannel_tests::subnet_env::Net;

/// A network that has room for them all.
pub(super) const NETWORK: Net<Ipv4Addr> = Net { addr: Ipv4Addr::new(10, 0, 0, 0), len: 8 };

/// What carries the packets of those leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Carrier {
    /// The kernel's device and BPF
    Vxlan,
    /// Routes by way of the peers, all of them on the link
    HostGw,
}

impl Carrier {
    /// The backend's type.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

/// Writes so many leases.
pub(super) fn fill(etcd: &Etcd, carrier: Carrier, leases: u32) -> Result<()> {
    etcd.kv().put_all(&(0..leases).map(|number| lease(carrier, number)).collect::<Vec<_>>())
}

/// Key and value of the lease with this number: 10.1.0.0/24, 10.1.1.0/24 ...
pub(super) fn lease(carrier: Carrier, number: u32) -> (String, String) {
    let (high, low) = (1 + number / 256, number % 256);
    let node = format!("172.{}.{}.{}", 16 + number / 65_536, number / 256 % 256, low);
    let mac = format!("c6:00:00:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 255, number & 255);
    let data = match carrier {
        Carrier::Vxlan => format!(r#","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#),
        Carrier::HostGw => String::new(),
    };
    let value =
        format!(r#"{{"PublicIP":"{node}","PublicIPv6":null,"BackendType":"{}"{data}}}"#, carrier.name());
    (format!("{PREFIX}/subnets/10.{high}.{low}.0-24"), value)
}
