//! aws-vpc: a route to this node's subnet in the route tables of an Amazon VPC. It leads to the node's network interface, whose
//! source/destination check is switched off.
//!
//! Routes of a VPC have no name and no tag. This node's are those that lead to its interface; those that lead to an interface or instance
//! that is gone (`blackhole`) are flannel's if they are of a node's subnet.

mod answer;
mod ec2;
mod sdk;

use std::net::IpAddr;

use ipnet::IpNet;

use self::answer::{NetworkInterface, RouteEntry, RouteTable};
use self::ec2::Ec2;
use self::sdk::Sdk;
use super::cloud::{Change, CloudError, Http, Owner, Provider, Route, Table, View};
use crate::config::AwsVpcConfig;

/// The VPC of this node.
pub(super) struct AwsVpc {
    /// The tables that are configured; if there are none, the subnet's is used.
    tables: Vec<String>,
    /// The node's addresses on the uplink.
    addresses: Vec<IpAddr>,
    sdk: Option<Sdk>,
    node: Option<(Ec2, NetworkInterface)>,
}

impl AwsVpc {
    /// `addresses`: the node's on its uplink.
    pub(super) fn new(config: &AwsVpcConfig, addresses: Vec<IpAddr>) -> Self {
        Self { tables: config.route_tables.clone(), addresses, sdk: None, node: None }
    }

    /// Finds this node's network interface.
    async fn find(&mut self) -> Result<(&Ec2, &NetworkInterface), CloudError> {
        let sdk = match &mut self.sdk {
            Some(sdk) => sdk,
            none => none.insert(Sdk::load(Http::open().await?).await),
        };
        let instance = sdk.instance_id().await?;
        let ec2 = sdk.ec2().await?;
        let interfaces = ec2.interfaces_of(&instance).await?;
        let interface = interfaces.into_iter().find(|interface| interface.has_one_of(&self.addresses));
        let interface = interface.ok_or_else(|| {
            CloudError::failed(format!(
                "no network interface of the instance {instance} has one of the addresses {:?}: choose another uplink by --iface",
                self.addresses
            ))
        })?;
        let (ec2, interface) = self.node.insert((ec2, interface));
        Ok((ec2, interface))
    }
}

impl Provider for AwsVpc {
    async fn read(&mut self) -> Result<View, CloudError> {
        let configured = self.tables.clone();
        let (ec2, interface) = self.find().await?;
        let mut obstacles = Vec::new();
        if interface.source_dest_check {
            obstacles.extend(switch_off_check(ec2, &interface.network_interface_id).await);
        }
        let tables = if configured.is_empty() {
            ec2.route_table_of(interface).await?
        } else {
            ec2.route_tables(&configured).await?
        };
        let tables =
            tables.into_iter().map(|table| table_of(table, &interface.network_interface_id)).collect();
        Ok(View { tables, obstacles })
    }

    async fn carry_out(&mut self, table: &str, change: &Change) -> Result<(), CloudError> {
        let (ec2, interface) = match &self.node {
            Some((ec2, interface)) => (ec2, interface),
            None => self.find().await?,
        };
        match change {
            Change::Create(subnet) => {
                ec2.write_route("CreateRoute", table, *subnet, &interface.network_interface_id).await
            }
            Change::Replace(Route { subnet, .. }) => {
                ec2.write_route("ReplaceRoute", table, *subnet, &interface.network_interface_id).await
            }
            Change::Remove(Route { subnet, .. }) => ec2.delete_route(table, *subnet).await,
        }
    }

    fn removal(&self, table: &str, Route { subnet, .. }: &Route) -> String {
        let option = if subnet.addr().is_ipv6() { "ipv6-cidr-block" } else { "cidr-block" };
        format!("aws ec2 delete-route --route-table-id {table} --destination-{option} {subnet}")
    }
}

/// Lets the interface forward. Returns what an operator has to do if that is not possible.
async fn switch_off_check(ec2: &Ec2, interface: &str) -> Option<String> {
    let error = ec2.switch_off_source_dest_check(interface).await.err()?;
    Some(format!(
        "the VPC drops pods' packets: the source/destination check of {interface} is on, and the agent cannot switch it off ({error}). \
         Permit ec2:ModifyNetworkInterfaceAttribute, or: aws ec2 modify-network-interface-attribute --network-interface-id {interface} \
         --no-source-dest-check"
    ))
}

/// Returns what concerns this node in a table.
fn table_of(RouteTable { route_table_id, route_set }: RouteTable, own: &str) -> Table {
    Table {
        id: route_table_id,
        routes: route_set.item.iter().filter_map(|entry| route_of(entry, own)).collect(),
    }
}

/// Returns a route to a prefix. Routes to lists of prefixes cannot be to a node's subnet.
fn route_of(entry: &RouteEntry, own: &str) -> Option<Route> {
    let destination = entry.destination_cidr_block.as_ref().or(entry.destination_ipv6_cidr_block.as_ref())?;
    let subnet: IpNet = destination.parse().ok()?;
    let is_to_node = entry.network_interface_id.is_some() || entry.instance_id.is_some();
    let has_no_target = entry.target() == "nothing";
    let owner = match (entry.state.as_str(), &entry.network_interface_id) {
        ("active", Some(interface)) if interface == own => Owner::Own,
        ("blackhole", _) if is_to_node || has_no_target => Owner::Flannel,
        _ => Owner::Other,
    };
    Some(Route { subnet, owner, next_hop: entry.target().to_owned(), id: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(entry: &str) -> Option<Owner> {
        let entry: RouteEntry = quick_xml::de::from_str(&format!("<item>{entry}</item>")).unwrap();
        route_of(&entry, "eni-1").map(|route| route.owner)
    }

    #[test]
    fn a_route_is_this_nodes_or_a_dead_nodes_or_somebody_elses() {
        let to = "<destinationCidrBlock>10.5.1.0/24</destinationCidrBlock>";
        for (rest, expected) in [
            (
                "<networkInterfaceId>eni-1</networkInterfaceId><instanceId>i-1</instanceId><state>active</state>",
                Owner::Own,
            ),
            ("<networkInterfaceId>eni-1</networkInterfaceId><state>blackhole</state>", Owner::Flannel),
            ("<networkInterfaceId>eni-2</networkInterfaceId><state>active</state>", Owner::Other),
            ("<networkInterfaceId>eni-2</networkInterfaceId><state>blackhole</state>", Owner::Flannel),
            ("<instanceId>i-2</instanceId><state>blackhole</state>", Owner::Flannel),
            ("<state>blackhole</state>", Owner::Flannel),
            ("<natGatewayId>nat-1</natGatewayId><state>blackhole</state>", Owner::Other),
            ("<vpcPeeringConnectionId>pcx-1</vpcPeeringConnectionId><state>blackhole</state>", Owner::Other),
            ("<gatewayId>local</gatewayId><state>active</state>", Owner::Other),
        ] {
            assert_eq!(owner(&format!("{to}{rest}")), Some(expected), "{rest}");
        }
        let v6 = "<destinationIpv6CidrBlock>fd44::/64</destinationIpv6CidrBlock><networkInterfaceId>eni-1</networkInterfaceId>";
        assert_eq!(owner(&format!("{v6}<state>active</state>")), Some(Owner::Own));
        let list = "<destinationPrefixListId>pl-1</destinationPrefixListId><gatewayId>vpce-1</gatewayId><state>active</state>";
        assert_eq!(owner(list), None);
    }
}
