//! What the VPC's interface answers, as far as it matters.

use serde::Deserialize;

/// A page of route tables.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RouteTables {
    pub(super) router_table_list: RouterTableList,
    pub(super) total_count: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RouterTableList {
    #[serde(default)]
    pub(super) router_table_list_type: Vec<RouteTable>,
}

/// A route table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RouteTable {
    pub(super) route_table_id: String,
    /// `System` or `Custom`.
    #[serde(default)]
    pub(super) route_table_type: String,
    /// The vSwitches whose packets it routes.
    #[serde(default)]
    pub(super) v_switch_ids: VSwitchIds,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VSwitchIds {
    #[serde(default)]
    pub(super) v_switch_id: Vec<String>,
}

/// A page of routes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RouteEntries {
    pub(super) route_entrys: RouteEntrys,
    #[serde(default)]
    pub(super) next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RouteEntrys {
    #[serde(default)]
    pub(super) route_entry: Vec<RouteEntry>,
}

/// A route.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RouteEntry {
    pub(super) destination_cidr_block: String,
    #[serde(default)]
    pub(super) route_entry_id: String,
    #[serde(default)]
    pub(super) route_entry_name: String,
    /// `Custom`, `System`, `BGP` or `CEN`.
    #[serde(rename = "Type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) next_hops: NextHops,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NextHops {
    #[serde(default)]
    pub(super) next_hop: Vec<NextHop>,
}

/// Where a route leads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NextHop {
    #[serde(default)]
    pub(super) next_hop_id: String,
    #[serde(default)]
    pub(super) next_hop_type: String,
}

/// The answer to a change.
#[derive(Debug, Deserialize)]
pub(super) struct Done {}

/// The answer to a request that is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Refused {
    #[serde(default)]
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
}
