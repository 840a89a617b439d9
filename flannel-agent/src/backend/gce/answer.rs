//! What Compute Engine answers, as far as it matters.

use std::net::IpAddr;

use serde::Deserialize;

/// An instance.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) self_link: String,
    #[serde(default)]
    pub(super) can_ip_forward: bool,
    #[serde(default)]
    pub(super) network_interfaces: Vec<NetworkInterface>,
}

/// A network interface of an instance.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkInterface {
    /// The URL of its network.
    pub(super) network: String,
    #[serde(rename = "networkIP")]
    network_ip: Option<IpAddr>,
    #[serde(default)]
    ipv6_address: Option<IpAddr>,
}

impl NetworkInterface {
    /// Returns whether one of these addresses is its own.
    pub(super) fn has_one_of(&self, addresses: &[IpAddr]) -> bool {
        [self.network_ip, self.ipv6_address].into_iter().flatten().any(|address| addresses.contains(&address))
    }
}

/// A page of routes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Routes {
    #[serde(default)]
    pub(super) items: Vec<RouteEntry>,
    #[serde(default)]
    pub(super) next_page_token: Option<String>,
}

/// A route. It has one next hop.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteEntry {
    pub(super) name: String,
    pub(super) dest_range: String,
    /// The URL of its network.
    pub(super) network: String,
    #[serde(default)]
    pub(super) next_hop_instance: Option<String>,
    #[serde(default)]
    next_hop_ip: Option<String>,
    #[serde(default)]
    next_hop_gateway: Option<String>,
    #[serde(default)]
    next_hop_ilb: Option<String>,
    #[serde(default)]
    next_hop_vpn_tunnel: Option<String>,
    #[serde(default)]
    next_hop_network: Option<String>,
    #[serde(default)]
    next_hop_peering: Option<String>,
}

impl RouteEntry {
    /// Returns the next hop: an address, a name or a URL.
    pub(super) fn next_hop(&self) -> &str {
        let hops = [
            &self.next_hop_instance,
            &self.next_hop_ip,
            &self.next_hop_gateway,
            &self.next_hop_ilb,
            &self.next_hop_vpn_tunnel,
            &self.next_hop_network,
            &self.next_hop_peering,
        ];
        hops.into_iter().flatten().next().map_or("another kind of next hop", String::as_str)
    }
}

/// A change that goes on.
#[derive(Debug, Deserialize)]
pub(super) struct Operation {
    pub(super) name: String,
    /// `PENDING`, `RUNNING` or `DONE`.
    pub(super) status: String,
    #[serde(default)]
    pub(super) error: Option<OperationError>,
}

/// Why a change has failed.
#[derive(Debug, Deserialize)]
pub(super) struct OperationError {
    #[serde(default)]
    pub(super) errors: Vec<Reason>,
}

/// One of the reasons.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reason {
    /// Of an operation: `QUOTA_EXCEEDED`.
    #[serde(default)]
    pub(super) code: String,
    /// Of a request: `rateLimitExceeded`.
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
}

/// The answer to a request that is refused.
#[derive(Debug, Deserialize)]
pub(super) struct Refused {
    pub(super) error: Refusal,
}

/// Why a request is refused.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) errors: Vec<Reason>,
}

/// Returns the part of a URL that names a resource: `projects/p/global/networks/default`. URLs of one resource may have several
/// hosts. Returns the whole text if it is no such URL.
pub(super) fn path_of(url: &str) -> &str {
    url.find("projects/").map_or(url, |start| &url[start..])
}
