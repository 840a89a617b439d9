//! What EC2 answers, as far as it matters.

use std::net::IpAddr;

use serde::Deserialize;

/// A list: `<item>` for each of its members.
#[derive(Debug, Deserialize)]
pub(super) struct Set<T> {
    #[serde(default = "Vec::new")]
    pub(super) item: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

/// The answer to `DescribeInstances`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instances {
    #[serde(default)]
    pub(super) reservation_set: Set<Reservation>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reservation {
    #[serde(default)]
    pub(super) instances_set: Set<Instance>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance {
    #[serde(default)]
    pub(super) network_interface_set: Set<NetworkInterface>,
}

/// A network interface of an instance.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkInterface {
    pub(super) network_interface_id: String,
    pub(super) subnet_id: String,
    pub(super) vpc_id: String,
    pub(super) source_dest_check: bool,
    #[serde(default)]
    private_ip_addresses_set: Addresses<PrivateIp>,
    #[serde(default)]
    ipv6_addresses_set: Addresses<Ipv6>,
}

#[derive(Clone, Debug, Deserialize)]
struct Addresses<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

impl<T> Default for Addresses<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrivateIp {
    private_ip_address: IpAddr,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipv6 {
    ipv6_address: IpAddr,
}

impl NetworkInterface {
    /// Returns whether one of these addresses is its own.
    pub(super) fn has_one_of(&self, addresses: &[IpAddr]) -> bool {
        let v4 = self.private_ip_addresses_set.item.iter().map(|address| address.private_ip_address);
        let v6 = self.ipv6_addresses_set.item.iter().map(|address| address.ipv6_address);
        v4.chain(v6).any(|address| addresses.contains(&address))
    }
}

/// The answer to `DescribeRouteTables`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteTables {
    #[serde(default)]
    pub(super) route_table_set: Set<RouteTable>,
    #[serde(default)]
    pub(super) next_token: Option<String>,
}

/// A route table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteTable {
    pub(super) route_table_id: String,
    #[serde(default)]
    pub(super) route_set: Set<RouteEntry>,
}

/// A route of a table. It has one destination and at most one target.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteEntry {
    #[serde(default)]
    pub(super) destination_cidr_block: Option<String>,
    #[serde(default)]
    pub(super) destination_ipv6_cidr_block: Option<String>,
    #[serde(default)]
    pub(super) network_interface_id: Option<String>,
    #[serde(default)]
    pub(super) instance_id: Option<String>,
    #[serde(default)]
    gateway_id: Option<String>,
    #[serde(default)]
    nat_gateway_id: Option<String>,
    #[serde(default)]
    egress_only_internet_gateway_id: Option<String>,
    #[serde(default)]
    transit_gateway_id: Option<String>,
    #[serde(default)]
    local_gateway_id: Option<String>,
    #[serde(default)]
    carrier_gateway_id: Option<String>,
    #[serde(default)]
    vpc_peering_connection_id: Option<String>,
    #[serde(default)]
    core_network_arn: Option<String>,
    /// `active` or `blackhole`.
    #[serde(default)]
    pub(super) state: String,
}

impl RouteEntry {
    /// Returns the ID of what it leads to.
    pub(super) fn target(&self) -> &str {
        let targets = [
            &self.network_interface_id,
            &self.instance_id,
            &self.gateway_id,
            &self.nat_gateway_id,
            &self.egress_only_internet_gateway_id,
            &self.transit_gateway_id,
            &self.local_gateway_id,
            &self.carrier_gateway_id,
            &self.vpc_peering_connection_id,
            &self.core_network_arn,
        ];
        let target = targets.into_iter().flatten().find(|target| !target.is_empty());
        target.map_or("nothing", String::as_str)
    }
}

/// The answer to a change.
#[derive(Debug, Deserialize)]
pub(super) struct Done {}

/// The answer to a request that is refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Refused {
    pub(super) errors: Errors,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Errors {
    pub(super) error: Vec<Refusal>,
}

/// Why a request is refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Refusal {
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
}
