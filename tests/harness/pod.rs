//! Pods: namespaces behind the bridge `cni0` of their node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::netns::NetNs;
use crate::subnet_env::{Net, SubnetEnv};
use crate::traffic::{At, Host};
use crate::wait::patiently;

/// The name of the bridge that pods are plugged into.
pub const BRIDGE: &str = "cni0";
/// How long the kernel may take to activate a new port of the bridge.
const ACTIVATION: Duration = Duration::from_secs(5);

/// A pod. Dropping it removes it from its node.
#[derive(Debug)]
pub struct Pod {
    netns: NetNs,
    addresses: Vec<IpAddr>,
    port: String,
    number: u16,
}

impl Pod {
    /// Adds the pod with this number to a node. Number 1 has address .2 of the subnet.
    pub(crate) fn plug(node: &NetNs, subnet: &SubnetEnv, number: u16) -> Result<Self> {
        let netns = NetNs::create(&format!("{}-pod{number}", node.name()))?;
        let port = format!("veth{number}");
        let (mac, mtu) = (port_mac(number), subnet.mtu);
        node.ip(&[
            format!(
                "link add {port} address {mac} mtu {mtu} type veth peer name eth0 netns {}",
                netns.name()
            ),
            format!("link set {port} master {BRIDGE} up"),
            format!("link set {port} type bridge_slave hairpin on"),
        ])?;
        let mut addresses = Vec::new();
        let mut lines = vec!["link set lo up".to_owned(), format!("link set eth0 mtu {} up", subnet.mtu)];
        for gateway in subnet.gateways() {
            let address = offset(gateway.addr, number)?;
            lines.push(format!("addr add {address}/{} dev eth0", gateway.len));
            lines.push(format!("route add default via {}", gateway.addr));
            addresses.push(address);
        }
        netns.ip(&lines)?;
        ensure_forwarding(node, &port)?;
        Ok(Self { netns, addresses, port, number })
    }

    /// Removes the pod and returns its number, which is free at once.
    pub(crate) fn unplug(self, node: &NetNs) -> Result<u16> {
        // Without this the kernel deletes the veth pair some time after the namespace.
        node.ip(&[format!("link del {}", self.port)])?;
        Ok(self.number)
    }

    /// Creates two pods without nodes, joined by a veth pair: the upper limit for performance on this machine.
    pub fn cabled_pair() -> Result<(Self, Self)> {
        let (left, right) = (NetNs::new("left")?, NetNs::new("right")?);
        left.ip(&[format!("link add eth0 type veth peer name eth0 netns {}", right.name())])?;
        let pod = |netns: NetNs, last| {
            let address = Ipv4Addr::new(10, 244, 0, last);
            let addr = format!("addr add {address}/24 dev eth0");
            netns.ip(&["link set lo up", addr.as_str(), "link set eth0 up"])?;
            Ok::<_, anyhow::Error>(Self {
                netns,
                addresses: vec![IpAddr::V4(address)],
                port: "eth0".to_owned(),
                number: 0,
            })
        };
        Ok((pod(left, 1)?, pod(right, 2)?))
    }

    /// Returns its namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Returns the name of its port in the node's namespace.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Returns its first address: IPv4 if the cluster has it.
    pub fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Returns all its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Returns the pod as a host at its IPv6 address.
    pub fn v6(&self) -> Result<At<'_>> {
        let address = self.addresses.iter().find(|address| address.is_ipv6());
        let ip = address.copied().with_context(|| format!("{} has no IPv6 address", self.netns.name()))?;
        Ok(At { netns: &self.netns, ip })
    }

    /// Runs a command line in the namespace and returns its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        self.netns.exec(line)
    }
}

impl Host for Pod {
    fn netns(&self) -> &NetNs {
        &self.netns
    }

    fn ip(&self) -> IpAddr {
        self.ip()
    }
}

pub(crate) fn make_bridge(node: &NetNs, subnet: &SubnetEnv) -> Result<()> {
    let mut lines = vec![format!("link add {BRIDGE} mtu {} type bridge", subnet.mtu)];
    lines.extend(
        subnet.gateways().iter().map(|Net { addr, len }| format!("addr add {addr}/{len} dev {BRIDGE}")),
    );
    lines.push(format!("link set {BRIDGE} up"));
    node.ip(&lines)
}

/// Returns the MAC of the port with this number. The CNI plugin gives the bridge a MAC for good. Here it has that of its first port, the lowest:
/// if a port with a lower one came, the bridge would take that, and pods would lose their gateway for seconds.
pub fn port_mac(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("fe:00:00:00:{high:02x}:{low:02x}")
}

/// Waits until the bridge forwards at this port. The kernel activates the end of a veth pair that was set up first up to a
/// second after the other one, and drops all frames until then.
fn ensure_forwarding(node: &NetNs, port: &str) -> Result<()> {
    patiently(&format!("the bridge forwards at {port}"), ACTIVATION, || {
        let links = node.exec_json(&format!("bridge -json link show dev {port}"))?;
        let state = &links[0]["state"];
        ensure!(state == "forwarding", "its state is {state}");
        Ok(())
    })
}

fn offset(gateway: IpAddr, by: u16) -> Result<IpAddr> {
    let sum = match gateway {
        IpAddr::V4(v4) => u32::from(v4).checked_add(by.into()).map(|sum| Ipv4Addr::from(sum).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_add(by.into()).map(|sum| Ipv6Addr::from(sum).into()),
    };
    sum.context("the subnet has no more addresses")
}
