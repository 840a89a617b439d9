//! The few requests to the VPC's interface that the backend needs.

use std::env;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::super::cloud::{Answer, CloudError, ErrorKind, Http};
use super::answer::{Done, Refused, RouteEntries, RouteEntry, RouteTable, RouteTables};
use super::metadata::{Metadata, Place};
use super::sign::{Call, Credentials};
use crate::config::AliVpcConfig;
use crate::random;

/// The version of the interface.
const VERSION: &str = "2016-04-28";
/// The variable that names another URL of the interface.
const ENDPOINT: &str = "ALIBABA_CLOUD_VPC_ENDPOINT";
/// So many route tables and routes are asked for at a time.
const TABLES: usize = 50;
const ROUTES: &str = "100";

/// The VPC's interface, as this instance sees it.
pub(super) struct Vpc {
    http: Http,
    endpoint: String,
    credentials: Credentials,
    place: Place,
}

impl Vpc {
    /// Asks the metadata who this instance is, and finds its credentials.
    pub(super) async fn open(http: &Http, config: &AliVpcConfig) -> Result<Self, CloudError> {
        let metadata = Metadata::open(http).await?;
        let place = metadata.place(config).await?;
        let credentials = metadata.credentials(config).await?;
        let configured = env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty());
        let endpoint = configured.unwrap_or_else(|| format!("vpc.{}.aliyuncs.com", place.region));
        let endpoint = endpoint.trim_end_matches('/');
        let endpoint =
            if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") };
        Ok(Self { http: http.clone(), endpoint, credentials, place })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the table that routes the packets of this node's vSwitch: its own, else the VPC's.
    pub(super) async fn route_table(&self) -> Result<String, CloudError> {
        let mut tables = Vec::<RouteTable>::new();
        let (mut number, size) = (1, TABLES.to_string());
        loop {
            let page = number.to_string();
            let answer: RouteTables = self
                .call(
                    "DescribeRouteTableList",
                    vec![("VpcId", &self.place.vpc), ("PageNumber", &page), ("PageSize", &size)],
                )
                .await?;
            let found = answer.router_table_list.router_table_list_type;
            let is_last = found.is_empty() || tables.len() + found.len() >= answer.total_count;
            tables.extend(found);
            if is_last {
                break;
            }
            number += 1;
        }
        let is_own = |table: &&RouteTable| table.v_switch_ids.v_switch_id.contains(&self.place.vswitch);
        let table = tables
            .iter()
            .find(is_own)
            .or_else(|| tables.iter().find(|table| table.route_table_type == "System"));
        let table =
            table.ok_or_else(|| CloudError::failed(format!("{} has no route table", self.place.vpc)))?;
        Ok(table.route_table_id.clone())
    }

    /// Returns the routes of a table.
    pub(super) async fn routes(&self, table: &str) -> Result<Vec<RouteEntry>, CloudError> {
        let (mut routes, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut parameters = vec![("RouteTableId", table), ("MaxResult", ROUTES)];
            parameters.extend(token.as_deref().map(|token| ("NextToken", token)));
            let answer: RouteEntries = self.call("DescribeRouteEntryList", parameters).await?;
            routes.extend(answer.route_entrys.route_entry);
            token = answer.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(routes);
            }
        }
    }

    /// Makes a route to this instance.
    pub(super) async fn create_route(
        &self,
        table: &str,
        subnet: IpNet,
        name: &str,
    ) -> Result<(), CloudError> {
        let subnet = subnet.to_string();
        let parameters = vec![
            ("RouteTableId", table),
            ("DestinationCidrBlock", subnet.as_str()),
            ("NextHopType", "Instance"),
            ("NextHopId", &self.place.instance),
            ("RouteEntryName", name),
            ("Description", "pods of a node, by flannel"),
        ];
        self.call::<Done>("CreateRouteEntry", parameters).await.map(drop)
    }

    /// Removes a route.
    pub(super) async fn delete_route(&self, id: &str) -> Result<(), CloudError> {
        self.call::<Done>("DeleteRouteEntry", vec![("RouteEntryId", id)]).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        action: &str,
        mut parameters: Vec<(&str, &str)>,
    ) -> Result<T, CloudError> {
        parameters.push(("RegionId", &self.place.region));
        let nonce = random::bytes::<16>().map_err(|error| CloudError::failed(error.to_string()))?;
        let call = Call {
            endpoint: &self.endpoint,
            action,
            version: VERSION,
            date: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            nonce: nonce.iter().map(|byte| format!("{byte:02x}")).collect(),
            parameters,
        };
        let answer =
            self.http.send(call.signed(&self.credentials)?).await.map_err(|error| error.when(action))?;
        if !answer.status.is_success() {
            return Err(refused(action, &answer));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| CloudError::failed(format!("{action}: the answer is not understood: {error}")))
    }
}

/// Returns why a request is refused, and what to do.
fn refused(action: &str, answer: &Answer) -> CloudError {
    let Refused { code, message } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let kind = if code == "Throttling" || code.starts_with("Throttling.") {
        ErrorKind::Throttled(answer.retry_after())
    } else if code.starts_with("InvalidRouteEntry") && code.ends_with("NotFound") {
        ErrorKind::NotFound
    } else {
        ErrorKind::Failed
    };
    let remedy = match code.as_str() {
        "Forbidden" | "Forbidden.RAM" | "NoPermission" | "Forbbiden" => {
            format!(". Permit vpc:{action} to the user or role")
        }
        code if code.starts_with("QuotaExceeded") => {
            ". Have the quota of custom routes per route table raised, or use the backend vxlan".to_owned()
        }
        "InvalidTimeStamp.Expired" => ". Is the clock of the node right?".to_owned(),
        _ => String::new(),
    };
    let shown: String = message.chars().take(400).collect();
    let code = if code.is_empty() { answer.status.to_string() } else { code };
    CloudError::new(kind, format!("{action}: {code}: {shown}{remedy}"))
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use hyper::header::HeaderMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_told_apart_and_say_what_to_do() {
        for (code, kind, said) in [
            ("Throttling.User", ErrorKind::Throttled(None), "M."),
            ("InvalidRouteEntryId.NotFound", ErrorKind::NotFound, "M."),
            ("QuotaExceeded.RouteEntry", ErrorKind::Failed, "quota"),
            ("Forbidden.RAM", ErrorKind::Failed, "Permit vpc:CreateRouteEntry"),
            ("TaskConflict", ErrorKind::Failed, "TaskConflict"),
        ] {
            let body = json!({"Code": code, "Message": "M.", "RequestId": "1", "HostId": "vpc.aliyuncs.com"});
            let answer = Answer {
                status: StatusCode::BAD_REQUEST,
                headers: HeaderMap::new(),
                body: body.to_string().into(),
            };
            let refused = refused("CreateRouteEntry", &answer);
            assert_eq!(refused.kind, kind, "{code}");
            assert!(refused.to_string().contains(said), "{refused}");
        }
    }
}
