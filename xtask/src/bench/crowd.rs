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

/// The lease of a node that does not exist.
pub(super) struct Lease {
    /// Its /24: 10.1.0.0, 10.1.1.0 ...
    pub(super) subnet: Ipv4Addr,
    /// The node's address.
    pub(super) node: Ipv4Addr,
    /// The backend's type, as flannel spells it.
    pub(super) backend: &'static str,
    /// The backend's own data: JSON.
    pub(super) data: Option<String>,
}

impl Lease {
    /// Returns the lease with this number.
    pub(super) fn new(backend: Backend, number: u32) -> Self {
        let [_, high, middle, low] = number.to_be_bytes();
        let mac = format!("c6:00:00:{high:02x}:{middle:02x}:{low:02x}");
        Self {
            subnet: Ipv4Addr::from(u32::from_be_bytes([10, 1, 0, 0]) + (number << 8)),
            node: Ipv4Addr::new(172, 16 + high, middle, low),
            backend: backend.name(),
            data: (backend == Backend::Vxlan).then(|| format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)),
        }
    }

    /// Returns its key and its value in etcd.
    pub(super) fn entry(&self) -> (String, String) {
        let Self { subnet, node, backend, data } = self;
        let data = data.as_ref().map(|data| format!(r#","BackendData":{data}"#)).unwrap_or_default();
        let value = format!(r#"{{"PublicIP":"{node}","PublicIPv6":null,"BackendType":"{backend}"{data}}}"#);
        (format!("{PREFIX}/subnets/{subnet}-24"), value)
    }
}

/// Writes this many leases to etcd.
pub(super) fn fill(etcd: &Etcd, backend: Backend, leases: u32) -> Result<()> {
    etcd.kv().put_all(&(0..leases).map(|number| Lease::new(backend, number).entry()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_distinct_and_within_their_networks() {
        let lease = |number| {
            let Lease { subnet, node, data, .. } = Lease::new(Backend::Vxlan, number);
            format!("{subnet} {node} {}", data.unwrap_or_default())
        };
        assert_eq!(lease(0), r#"10.1.0.0 172.16.0.0 {"VNI":1,"VtepMAC":"c6:00:00:00:00:00"}"#);
        assert_eq!(lease(60_050), r#"10.235.146.0 172.16.234.146 {"VNI":1,"VtepMAC":"c6:00:00:00:ea:92"}"#);
    }
}
