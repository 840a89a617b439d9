//! gce: a route to this node's subnet in a network of Google Compute Engine. It is named as flannel names it, and leads to the instance,
//! which has to be one that may forward.

mod answer;
mod compute;
mod token;

use std::net::IpAddr;

use ipnet::IpNet;

use self::answer::{Instance, RouteEntry, path_of};
use self::compute::Compute;
use super::cloud::{Change, CloudError, Http, Owner, Provider, Route, Table, View};

/// The network of this node.
pub(super) struct Gce {
    /// The node's addresses on the uplink.
    addresses: Vec<IpAddr>,
    compute: Option<Compute>,
    place: Option<Place>,
}

/// What a route of this node needs.
struct Place {
    /// The URL of the instance.
    instance: String,
    /// The URL of the network.
    network: String,
}

impl Gce {
    /// `addresses`: the node's on its uplink.
    pub(super) fn new(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, compute: None, place: None }
    }

    async fn find(&mut self) -> Result<Found<'_>, CloudError> {
        let compute = match &mut self.compute {
            Some(compute) => compute,
            none => none.insert(Compute::open(Http::open().await?).await?),
        };
        let Instance { self_link, can_ip_forward, network_interfaces, name } = compute.instance().await?;
        let interface =
            network_interfaces.into_iter().find(|interface| interface.has_one_of(&self.addresses));
        let interface = interface.ok_or_else(|| {
            CloudError::failed(format!(
                "no network interface of the instance {name} has one of the addresses {:?}: choose another uplink by --iface",
                self.addresses
            ))
        })?;
        let place = self.place.insert(Place { instance: self_link, network: interface.network });
        Ok(Found { compute, place, obstacle: (!can_ip_forward).then(|| cannot_forward(&name)) })
    }
}

struct Found<'a> {
    compute: &'a mut Compute,
    place: &'a Place,
    obstacle: Option<String>,
}

impl Provider for Gce {
    async fn read(&mut self) -> Result<View, CloudError> {
        let Found { compute, place, obstacle } = self.find().await?;
        let entries = compute.routes().await?;
        let routes = entries.iter().filter_map(|entry| route_of(entry, place)).collect();
        let network = path_of(&place.network).rsplit('/').next().unwrap_or_default();
        Ok(View {
            tables: vec![Table { id: format!("the network {network}"), routes }],
            obstacles: obstacle.into_iter().collect(),
        })
    }

    async fn carry_out(&mut self, _table: &str, change: &Change) -> Result<(), CloudError> {
        let (compute, place) = match (&mut self.compute, &self.place) {
            (Some(compute), Some(place)) => (compute, place),
            _ => return Err(CloudError::failed("the routes have not been read")),
        };
        match change {
            Change::Create(subnet) => compute.insert(*subnet, place).await,
            // A route cannot be changed.
            Change::Replace(Route { subnet, id, .. }) => {
                compute.delete(id).await?;
                compute.insert(*subnet, place).await
            }
            Change::Remove(Route { id, .. }) => compute.delete(id).await,
        }
    }

    fn removal(&self, _table: &str, Route { id, .. }: &Route) -> String {
        format!("gcloud compute routes delete {id}")
    }
}

fn cannot_forward(instance: &str) -> String {
    format!(
        "the network drops pods' packets: canIpForward of the instance {instance} is false. Make the instance again with \
         --can-ip-forward, or change it by gcloud compute instances export and update-from-file"
    )
}

/// Returns the name of the route to a subnet, which is flannel's: `flannel-10-5-3-0-24`.
fn name_of(subnet: IpNet) -> String {
    format!("flannel-{}", subnet.to_string().replace(['.', '/', ':'], "-"))
}

/// Returns a route of this node's network.
fn route_of(entry: &RouteEntry, place: &Place) -> Option<Route> {
    let subnet: IpNet = entry.dest_range.parse().ok()?;
    if path_of(&entry.network) != path_of(&place.network) {
        return None;
    }
    let leads_here = entry.next_hop_instance.as_deref().map(path_of) == Some(path_of(&place.instance));
    let owner = match (entry.name == name_of(subnet), leads_here) {
        (true, true) => Owner::Own,
        (true, false) => Owner::Flannel,
        (false, _) => Owner::Other,
    };
    Some(Route { subnet, owner, next_hop: path_of(entry.next_hop()).to_owned(), id: entry.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_flannels_names() {
        for (subnet, name) in
            [("10.5.3.0/24", "flannel-10-5-3-0-24"), ("fd44:0:0:3::/64", "flannel-fd44-0-0-3---64")]
        {
            assert_eq!(name_of(subnet.parse().unwrap()), name);
        }
    }

    #[test]
    fn a_route_is_flannels_by_its_name_and_this_nodes_by_its_instance() {
        let compute = "https://compute.googleapis.com/compute/v1/projects/p";
        let place = Place {
            instance: format!("{compute}/zones/z/instances/node1"),
            network: format!("{compute}/global/networks/default"),
        };
        let owner = |name: &str, network: &str, instance: &str| {
            let text = serde_json::json!({
                "name": name,
                "destRange": "10.5.3.0/24",
                "network": format!("https://www.googleapis.com/compute/v1/projects/p/global/networks/{network}"),
                "nextHopInstance": format!("https://www.googleapis.com/compute/v1/projects/p/zones/z/instances/{instance}"),
            });
            let entry: RouteEntry = serde_json::from_value(text).unwrap();
            route_of(&entry, &place).map(|route| route.owner)
        };
        for (name, network, instance, expected) in [
            ("flannel-10-5-3-0-24", "default", "node1", Some(Owner::Own)),
            ("flannel-10-5-3-0-24", "default", "node2", Some(Owner::Flannel)),
            ("flannel-10-5-4-0-24", "default", "node1", Some(Owner::Other)),
            ("by-hand", "default", "node1", Some(Owner::Other)),
            ("flannel-10-5-3-0-24", "other", "node1", None),
        ] {
            assert_eq!(owner(name, network, instance), expected, "{name} {network} {instance}");
        }
    }
}
