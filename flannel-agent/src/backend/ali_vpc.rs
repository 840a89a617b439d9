//! ali-vpc: a route to this node's subnet in a route table of a VPC of Alibaba Cloud. It leads to the instance.
//!
//! The agent's routes have a name. Those of flannel had none, and are this node's if they lead to its instance.

mod answer;
mod metadata;
mod sign;
mod vpc;

use ipnet::IpNet;

use self::answer::{NextHop, RouteEntry};
use self::metadata::Place;
use self::vpc::Vpc;
use super::cloud::{Change, CloudError, Http, Owner, Provider, Route, Table, View};
use crate::config::AliVpcConfig;

/// The VPC of this node.
pub(super) struct AliVpc {
    config: AliVpcConfig,
    http: Option<Http>,
    vpc: Option<Vpc>,
}

impl AliVpc {
    pub(super) fn new(config: &AliVpcConfig) -> Self {
        Self { config: config.clone(), http: None, vpc: None }
    }
}

impl Provider for AliVpc {
    async fn read(&mut self) -> Result<View, CloudError> {
        let http = match &mut self.http {
            Some(http) => http,
            none => none.insert(Http::open().await?),
        };
        let vpc = self.vpc.insert(Vpc::open(http, &self.config).await?);
        let table = vpc.route_table().await?;
        let entries = vpc.routes(&table).await?;
        let routes = entries.iter().filter_map(|entry| route_of(entry, vpc.place())).collect();
        Ok(View { tables: vec![Table { id: table, routes }], obstacles: Vec::new() })
    }

    async fn carry_out(&mut self, table: &str, change: &Change) -> Result<(), CloudError> {
        let vpc = self.vpc.as_ref().ok_or_else(|| CloudError::failed("the routes have not been read"))?;
        match change {
            Change::Create(subnet) => vpc.create_route(table, *subnet, &name_of(*subnet)).await,
            // A table has no two routes to one subnet, and the other end of a route cannot be changed.
            Change::Replace(Route { subnet, id, .. }) => {
                vpc.delete_route(id).await?;
                vpc.create_route(table, *subnet, &name_of(*subnet)).await
            }
            Change::Remove(Route { id, .. }) => vpc.delete_route(id).await,
        }
    }

    fn removal(&self, _table: &str, Route { id, .. }: &Route) -> String {
        format!("aliyun vpc DeleteRouteEntry --RouteEntryId {id}")
    }
}

/// Returns the name of the route to a subnet: `flannel-10-5-3-0-24`.
fn name_of(subnet: IpNet) -> String {
    format!("flannel-{}", subnet.to_string().replace(['.', '/'], "-"))
}

/// Returns a route to a prefix.
fn route_of(entry: &RouteEntry, place: &Place) -> Option<Route> {
    let subnet: IpNet = entry.destination_cidr_block.parse().ok()?;
    let hops = &entry.next_hops.next_hop;
    let is_here = |hop: &NextHop| hop.next_hop_type == "Instance" && hop.next_hop_id == place.instance;
    let leads_here = matches!(&hops[..], [hop] if is_here(hop));
    let owner = match (entry.kind == "Custom", leads_here, entry.route_entry_name == name_of(subnet)) {
        (true, true, _) => Owner::Own,
        (true, false, true) => Owner::Flannel,
        _ => Owner::Other,
    };
    let next_hop =
        hops.iter().map(|hop| hop.next_hop_id.as_str()).find(|id| !id.is_empty()).unwrap_or("the VPC");
    Some(Route { subnet, owner, next_hop: next_hop.to_owned(), id: entry.route_entry_id.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_is_this_nodes_by_its_instance_and_flannels_by_its_name() {
        let place = Place { instance: "i-1".to_owned(), ..Place::default() };
        let owner = |kind: &str, name: &str, hops: &[&str]| {
            let hops: Vec<_> =
                hops.iter().map(|id| json!({"NextHopId": id, "NextHopType": "Instance"})).collect();
            let entry: RouteEntry = serde_json::from_value(json!({
                "DestinationCidrBlock": "10.5.3.0/24",
                "RouteEntryId": "rte-1",
                "RouteEntryName": name,
                "Type": kind,
                "NextHops": {"NextHop": hops},
            }))
            .unwrap();
            route_of(&entry, &place).unwrap().owner
        };
        let name = "flannel-10-5-3-0-24";
        for (kind, name, hops, expected) in [
            ("Custom", name, &["i-1"][..], Owner::Own),
            ("Custom", "", &["i-1"], Owner::Own),
            ("Custom", name, &["i-2"], Owner::Flannel),
            ("Custom", "", &["i-2"], Owner::Other),
            ("Custom", "by-hand", &["i-1", "i-2"], Owner::Other),
            ("System", "", &[], Owner::Other),
        ] {
            assert_eq!(owner(kind, name, hops), expected, "{kind} {name} {hops:?}");
        }
    }
}
