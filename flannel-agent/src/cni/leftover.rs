//! The pods' bridge of an earlier subnet. A node that is deleted and added again gets another subnet, and its bridge still
//! has the old address. The bridge plugin refuses such a bridge.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use serde_json::Value;

use super::delegate::Delegate;
use super::error::{Code, Error};
use super::network::Object;
use super::subnet::Subnet;
use crate::netlink::address::{is_link_local, net_of};
use crate::netlink::link::{self, Link, LinkKind};
use crate::netlink::{self, errno};

/// The bridge plugin's default for `bridge`.
const BRIDGE: &str = "cni0";

/// Removes the bridge if it has addresses of another subnet and no ports. The bridge plugin makes it again.
///
/// # Errors
/// It has ports, and the bridge plugin would refuse it. Where the kernel cannot be asked, the bridge plugin decides.
pub(super) fn remove(delegate: &Delegate, subnet: &Subnet) -> Result<(), Error> {
    let Some(bridge) = bridge_with_gateways(delegate) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let state = runtime.context("starting a runtime").and_then(|runtime| {
        runtime.block_on(async { remove_from(&netlink::open()?, bridge, &subnet.gateways).await })
    });
    match state {
        Ok(State::Usable) => Ok(()),
        Ok(State::Removed { stale }) => {
            eprintln!(
                "flannel: removed the bridge {bridge}, which had {} of another subnet and no pods",
                list(&stale)
            );
            Ok(())
        }
        Ok(State::InUse { stale, ports }) => Err(in_use(bridge, &stale, &ports, &subnet.gateways)),
        Err(error) => {
            eprintln!("flannel: not checked whether {bridge} is left of another subnet: {error:#}");
            Ok(())
        }
    }
}

/// The state of the bridge.
enum State {
    /// It does not exist, or the bridge plugin accepts its addresses.
    Usable,
    Removed {
        stale: Vec<IpNet>,
    },
    InUse {
        stale: Vec<IpNet>,
        ports: Vec<String>,
    },
}

/// Returns the name of the bridge to which the delegate will give the gateways' addresses.
fn bridge_with_gateways(delegate: &Delegate) -> Option<&str> {
    let config = &delegate.config;
    let flag = |object: &Object, key: &str| object.get(key).and_then(Value::as_bool).unwrap_or(false);
    let is_gateway = flag(config, "isGateway") || flag(config, "isDefaultGateway");
    let local = config.get("ipam").is_some_and(|ipam| ipam["type"] == "host-local");
    let chosen = delegate.kind == "bridge" && is_gateway && local && !flag(config, "forceAddress");
    let name = config.get("bridge").and_then(Value::as_str).filter(|name| !name.is_empty());
    chosen.then(|| name.unwrap_or(BRIDGE))
}

async fn remove_from(handle: &Handle, bridge: &str, gateways: &[IpNet]) -> Result<State> {
    let found = link::by_name(handle, bridge).await.with_context(|| format!("looking for {bridge}"))?;
    let Some(Link { index, .. }) = found.filter(|link| link.kind == LinkKind::Bridge) else {
        return Ok(State::Usable);
    };
    let stale = stale(&addresses(handle, index).await?, gateways);
    if stale.is_empty() {
        return Ok(State::Usable);
    }
    let links = link::list(handle).await.context("listing the bridge's ports")?;
    let ports = links.into_iter().filter(|link| link.controller == Some(index));
    let ports: Vec<_> = ports.map(|port| port.name).collect();
    match (ports.is_empty(), is_refused(&stale, gateways)) {
        (false, true) => return Ok(State::InUse { stale, ports }),
        (false, false) => return Ok(State::Usable),
        (true, _) => {}
    }
    match handle.link().del(index).execute().await {
        // Another pod's plugin was faster.
        Err(error) if errno(&error) == libc::ENODEV => Ok(State::Usable),
        removed => removed.with_context(|| format!("removing {bridge}")).map(|()| State::Removed { stale }),
    }
}

async fn addresses(handle: &Handle, index: u32) -> Result<Vec<IpNet>> {
    let mut request = handle.address().get().set_link_index_filter(index).execute();
    let mut addresses = Vec::new();
    while let Some(message) = request.try_next().await.context("listing the bridge's addresses")? {
        addresses.extend(net_of(&message));
    }
    Ok(addresses)
}

/// Returns the addresses of the families in which the bridge has addresses, but not the gateway's.
fn stale(addresses: &[IpNet], gateways: &[IpNet]) -> Vec<IpNet> {
    let of_family = |gateway: &IpNet| {
        let is_v4 = gateway.addr().is_ipv4();
        let own =
            addresses.iter().filter(move |net| net.addr().is_ipv4() == is_v4 && !is_link_local(net.addr()));
        own.copied().collect::<Vec<_>>()
    };
    let without_gateway = gateways.iter().filter(|gateway| !addresses.contains(gateway));
    without_gateway.flat_map(of_family).collect()
}

/// Whether the bridge plugin refuses a bridge with these addresses. It adds IPv6 addresses beside those of other subnets.
fn is_refused(stale: &[IpNet], gateways: &[IpNet]) -> bool {
    let overlap = |a: &IpNet, b: &IpNet| a.contains(&b.addr()) || b.contains(&a.addr());
    stale.iter().any(|net| match net.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(_) => gateways.iter().any(|gateway| overlap(net, gateway)),
    })
}

fn in_use(bridge: &str, stale: &[IpNet], ports: &[String], gateways: &[IpNet]) -> Error {
    let msg = format!("{bridge} already has an IP address different from {}", list(gateways));
    let details = format!(
        "it has {} of the node's earlier subnet, and pods of that subnet are attached by {}. Delete the pods of this \
         node that are not on the host's network; {bridge} is replaced when the last one is gone",
        list(stale),
        ports.join(", ")
    );
    Error::new(Code::TryAgainLater, msg, details)
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_stale_where_the_gateway_of_their_family_is_missing() {
        for (addresses, gateways, expected) in [
            ("", "10.5.2.1/24", ""),
            ("fe80::1/64", "10.5.2.1/24 fd44:0:0:2::1/64", ""),
            ("10.5.2.1/24", "10.5.2.1/24", ""),
            ("10.5.1.1/24", "10.5.2.1/24", "10.5.1.1/24"),
            ("10.5.2.1/25", "10.5.2.1/24", "10.5.2.1/25"),
            ("10.5.2.1/24 192.0.2.1/24", "10.5.2.1/24", ""),
            ("10.5.1.1/24 fd44:0:0:1::1/64", "10.5.2.1/24", "10.5.1.1/24"),
            ("10.5.2.1/24 fd44:0:0:1::1/64 fe80::1/64", "10.5.2.1/24 fd44:0:0:2::1/64", "fd44:0:0:1::1/64"),
        ] {
            assert_eq!(
                stale(&nets(addresses), &nets(gateways)),
                nets(expected),
                "{addresses} for {gateways}"
            );
        }
    }

    #[test]
    fn the_bridge_plugin_refuses_any_other_ipv4_address_and_overlapping_ipv6_addresses() {
        for (stale, gateways, expected) in [
            ("10.5.1.1/24", "10.5.2.1/24", true),
            ("fd44:0:0:1::1/64", "fd44:0:0:2::1/64", false),
            ("fd44:0:0:2::9/64", "fd44:0:0:2::1/64", true),
            ("fd44::1/48", "fd44:0:0:2::1/64", true),
        ] {
            assert_eq!(is_refused(&nets(stale), &nets(gateways)), expected, "{stale} for {gateways}");
        }
    }

    #[test]
    fn only_a_bridge_that_gets_the_gateways_addresses_is_looked_at() {
        let stock = r#"{"type":"bridge","isGateway":true,"ipam":{"type":"host-local"}}"#;
        for (change, expected) in [
            (r#"{}"#, Some("cni0")),
            (r#"{"bridge":"pods"}"#, Some("pods")),
            (r#"{"isGateway":false,"isDefaultGateway":true}"#, Some("cni0")),
            (r#"{"isGateway":false}"#, None),
            (r#"{"forceAddress":true}"#, None),
            (r#"{"ipam":{"type":"static"}}"#, None),
            (r#"{"type":"macvlan"}"#, None),
        ] {
            let mut config: Object = serde_json::from_str(stock).unwrap();
            config.extend(serde_json::from_str::<Object>(change).unwrap());
            let delegate = Delegate::parse(&Value::Object(config).to_string()).unwrap();
            assert_eq!(bridge_with_gateways(&delegate), expected, "{change}");
        }
    }
}
