//! A VPC of Alibaba Cloud: its interface, and the metadata of its instances in hardened mode. It checks signatures (ACS3-HMAC-SHA256)
//! by code of its own, and answers as the documentation says: pages, and errors.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Cloud;
use super::server::{Reply, Request, Server};
use crate::cluster::{Cluster, MGMT};

const METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const REGION: &str = "cn-hangzhou";
const VPC: &str = "vpc-bp1bed";
const METADATA_TOKEN: &str = "YzE5bed";
/// The VPC's own table. The instances' vSwitch has no other.
pub const TABLE: &str = "vtb-bp1system";
/// So many tables and routes are on a page at most.
const PAGE: usize = 2;

/// A key that the interface accepts.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its ID.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The token of temporary credentials.
    token: Option<String>,
}

/// A running VPC. Dropping it ends its servers.
#[derive(Debug)]
pub struct Vpc {
    _metadata: Server,
    interface: Server,
    state: Arc<Mutex<State>>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Its destination.
    pub to: String,
    /// Its name; empty if it has none.
    pub name: String,
    /// The instance that it leads to.
    pub instance: String,
}

#[derive(Debug, Default)]
struct State {
    /// Addresses and IDs.
    instances: Vec<(Ipv4Addr, String)>,
    /// Whether the instances have a RAM role.
    has_role: bool,
    keys: Vec<Key>,
    /// IDs and routes.
    routes: Vec<(String, Route)>,
    made: usize,
    nonces: BTreeSet<String>,
    /// The errors that answer the next requests.
    errors: Vec<(u16, String, String)>,
}

impl Vpc {
    /// Starts it with an instance for each node, which have a RAM role or not.
    pub fn start(cluster: &Cluster, has_role: bool) -> Result<Self> {
        let key = |id: &str, secret: &str, token: Option<&str>| Key {
            id: id.to_owned(),
            secret: secret.to_owned(),
            token: token.map(str::to_owned),
        };
        let instances = (1..).zip(cluster.nodes()).map(|(number, node)| (node.ip(), format!("i-bp{number}")));
        let state = State {
            instances: instances.collect(),
            has_role,
            keys: vec![key("LTAIbed", "hunter2bed", None), key("STS.bed", "hunter3bed", Some("CAISbed=="))],
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let router = cluster.fabric().context("the topology has no router")?;
        router.ip(&[format!("addr add {METADATA}/32 dev lo")])?;
        let of_metadata = Arc::clone(&state);
        let metadata = Server::start(router, METADATA.into(), 80, move |request| {
            metadata(&lock(&of_metadata), request)
        })?;
        let of_interface = Arc::clone(&state);
        let interface = Server::start(cluster.mgmt(), MGMT.into(), 0, move |request| {
            answer(&mut lock(&of_interface), request)
        })?;
        Ok(Self { _metadata: metadata, interface, state })
    }

    /// Returns the key of a user.
    pub fn key(&self) -> Key {
        self.lock().keys[0].clone()
    }

    /// Returns the ID of a node's instance.
    pub fn instance(&self, node: usize) -> String {
        self.lock().instances[node].1.clone()
    }

    /// Returns the routes that are not the VPC's own.
    pub fn routes(&self) -> Vec<Route> {
        let mut routes: Vec<_> = self.lock().routes.iter().map(|(_, route)| route.clone()).collect();
        routes.sort();
        routes
    }

    /// Adds a route, and returns its ID.
    pub fn add_route(&self, route: Route) -> String {
        self.lock().add(route)
    }

    /// Removes a route.
    pub fn remove_route(&self, id: &str) {
        self.lock().routes.retain(|(known, _)| known != id);
    }

    /// Removes all routes.
    pub fn remove_routes(&self) {
        self.lock().routes.clear();
    }

    /// Has the next requests answered by this error.
    pub fn refuse(&self, requests: usize, status: u16, code: &str, message: &str) {
        self.lock().errors = vec![(status, code.to_owned(), message.to_owned()); requests];
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Cloud for Vpc {
    fn environment(&self) -> (String, String) {
        ("ALIBABA_CLOUD_VPC_ENDPOINT".to_owned(), format!("http://{}", self.interface.address()))
    }

    fn next_hops(&self) -> Result<Vec<(String, IpAddr)>> {
        let routes = self.routes();
        let instances = &self.lock().instances;
        let hop = |route: Route| {
            let (ip, _) = instances.iter().find(|(_, id)| *id == route.instance)?;
            Some((route.to, IpAddr::V4(*ip)))
        };
        Ok(routes.into_iter().filter_map(hop).collect())
    }
}

impl State {
    fn add(&mut self, route: Route) -> String {
        self.made += 1;
        let id = format!("rte-bp{}", self.made);
        self.routes.push((id.clone(), route));
        id
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn metadata(state: &State, request: &Request) -> Reply {
    let Some((_, instance)) = state.instances.iter().find(|(ip, _)| *ip == request.from) else {
        return Reply::new(404, "");
    };
    if request.method == "PUT" && request.target == "/latest/api/token" {
        let ttl = request.header("x-aliyun-ecs-metadata-token-ttl-seconds").parse::<u32>();
        return if matches!(ttl, Ok(1..=21_600)) {
            Reply::new(200, METADATA_TOKEN)
        } else {
            Reply::new(400, "")
        };
    }
    if request.header("x-aliyun-ecs-metadata-token") != METADATA_TOKEN {
        return Reply::new(403, "");
    }
    match request.path().strip_prefix("/latest/meta-data/") {
        Some("region-id") => Reply::new(200, REGION),
        Some("vpc-id") => Reply::new(200, VPC),
        Some("vswitch-id") => Reply::new(200, "vsw-bp1bed"),
        Some("instance-id") => Reply::new(200, &**instance),
        Some("ram/security-credentials/") if state.has_role => Reply::new(200, "flannel"),
        Some("ram/security-credentials/flannel") if state.has_role => {
            let Key { id, secret, token } = &state.keys[1];
            let credentials = json!({"AccessKeyId": id, "AccessKeySecret": secret, "SecurityToken": token,
                "Expiration": "2099-01-01T00:00:00Z", "LastUpdated": "2026-01-01T00:00:00Z", "Code": "Success"});
            Reply::new(200, credentials.to_string())
        }
        _ => Reply::new(404, ""),
    }
}

fn answer(state: &mut State, request: &Request) -> Reply {
    if let Err(error) = check(state, request) {
        return refuse(400, "SignatureDoesNotMatch", &format!("{error:#}"));
    }
    if let Some((status, code, message)) = state.errors.pop() {
        return refuse(status, &code, &message);
    }
    let parameters = Request::parameters(request.query());
    let get =
        |name: &str| parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let (action, allowed): (_, &[&str]) = match request.header("x-acs-action") {
        "DescribeRouteTableList" => (
            describe_tables as fn(&mut State, &dyn Fn(&str) -> String) -> Reply,
            &["VpcId", "PageNumber", "PageSize"],
        ),
        "DescribeRouteEntryList" => (describe_routes, &["RouteTableId", "MaxResult", "NextToken"]),
        "CreateRouteEntry" => (
            create,
            &[
                "RouteTableId",
                "DestinationCidrBlock",
                "NextHopType",
                "NextHopId",
                "RouteEntryName",
                "Description",
            ],
        ),
        "DeleteRouteEntry" => (delete, &["RouteEntryId"]),
        _ => {
            return refuse(
                404,
                "InvalidAction.NotFound",
                "Specified api is not found, please check your url and method.",
            );
        }
    };
    let unknown = parameters.iter().find(|(name, _)| name != "RegionId" && !allowed.contains(&name.as_str()));
    if let Some((name, _)) = unknown {
        return refuse(400, "InvalidParameter", &format!("The specified parameter {name} is not valid."));
    }
    if get("RegionId") != REGION {
        return refuse(404, "InvalidRegionId.NotFound", "The specified RegionId does not exist.");
    }
    action(state, &|name| get(name).to_owned())
}

fn refuse(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({"Code": code, "Message": message, "RequestId": "0ED8D006", "HostId": "vpc.aliyuncs.com",
        "Recommend": "https://api.aliyun.com/troubleshoot"});
    Reply::new(status, body.to_string())
}

fn describe_tables(_: &mut State, get: &dyn Fn(&str) -> String) -> Reply {
    if get("VpcId") != VPC {
        return refuse(404, "InvalidVpcId.NotFound", "Specified VPC does not exist.");
    }
    let all = [
        ("vtb-bp1a", "Custom", "vsw-bp1a"),
        ("vtb-bp1b", "Custom", "vsw-bp1b"),
        (TABLE, "System", "vsw-bp1bed"),
    ];
    let number = |name: &str, default| get(name).parse().unwrap_or(default);
    let (page, size): (usize, usize) = (number("PageNumber", 1), number("PageSize", 10));
    if page == 0 || !(1..=50).contains(&size) {
        return refuse(400, "InvalidParameter", "The specified PageNumber or PageSize is not valid.");
    }
    // Fewer than asked for, so that there are several pages.
    let size = size.min(PAGE);
    let tables: Vec<_> = (all.iter().skip((page - 1) * size).take(size))
        .map(|(id, kind, vswitch)| {
            json!({"RouteTableId": id, "RouteTableType": kind, "VpcId": VPC, "Status": "Available",
                "VSwitchIds": {"VSwitchId": [vswitch]}})
        })
        .collect();
    let body = json!({"RouterTableList": {"RouterTableListType": tables}, "TotalCount": all.len(), "PageNumber": page,
        "PageSize": size, "Code": "Success", "Success": true, "RequestId": "1"});
    Reply::new(200, body.to_string())
}

fn describe_routes(state: &mut State, get: &dyn Fn(&str) -> String) -> Reply {
    if get("RouteTableId") != TABLE {
        return refuse(400, "InvalidRouteTableId.NotFound", "Specified route table does not exist.");
    }
    let size: usize = get("MaxResult").parse().unwrap_or(10);
    if !(1..=100).contains(&size) {
        return refuse(400, "InvalidParameter", "The specified MaxResult is not valid.");
    }
    let hop = |id: &str| json!({"NextHop": [{"NextHopId": id, "NextHopType": "Instance", "Enabled": 1, "Weight": 0}]});
    let mut all = vec![
        json!({"DestinationCidrBlock": "192.168.64.0/24", "RouteEntryId": "rte-bp0", "Type": "System",
        "RouteTableId": TABLE, "Status": "Available", "NextHops": {"NextHop": [{"NextHopId": "", "NextHopType": "local"}]}}),
    ];
    all.extend(state.routes.iter().map(|(id, Route { to, name, instance })| {
        json!({"DestinationCidrBlock": to, "RouteEntryId": id, "RouteEntryName": name, "Type": "Custom",
            "RouteTableId": TABLE, "Status": "Available", "IpVersion": "IPv4", "NextHops": hop(instance)})
    }));
    let start = get("NextToken").strip_prefix("at").and_then(|start| start.parse().ok()).unwrap_or(0);
    let end = (start + size.min(PAGE)).min(all.len());
    let next = if end < all.len() { format!("at{end}") } else { String::new() };
    let page: &[Value] = &all[start.min(end)..end];
    Reply::new(
        200,
        json!({"RouteEntrys": {"RouteEntry": page}, "NextToken": next, "RequestId": "1"}).to_string(),
    )
}

fn create(state: &mut State, get: &dyn Fn(&str) -> String) -> Reply {
    let route =
        Route { to: get("DestinationCidrBlock"), name: get("RouteEntryName"), instance: get("NextHopId") };
    if get("RouteTableId") != TABLE {
        return refuse(400, "InvalidRouteTableId.NotFound", "Specified route table does not exist.");
    }
    if get("NextHopType") != "Instance" || !state.instances.iter().any(|(_, id)| *id == route.instance) {
        return refuse(404, "InvalidNextHop.NotFound", "Specified next hop does not exist.");
    }
    if state.routes.iter().any(|(_, known)| known.to == route.to) {
        return refuse(400, "RouterEntryConflict.Duplicated", "The route entry already exists.");
    }
    let id = state.add(route);
    Reply::new(200, json!({"RouteEntryId": id, "RequestId": "1"}).to_string())
}

fn delete(state: &mut State, get: &dyn Fn(&str) -> String) -> Reply {
    let before = state.routes.len();
    state.routes.retain(|(id, _)| *id != get("RouteEntryId"));
    if state.routes.len() == before {
        return refuse(400, "InvalidRouteEntry.NotFound", "The specified route entry does not exist.");
    }
    Reply::new(200, json!({"RequestId": "1"}).to_string())
}

/// Checks the signature, and that the request is no copy of an earlier one.
fn check(state: &mut State, request: &Request) -> Result<()> {
    let value = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("{name}="))?;
        Some(rest.split([',', ' ']).next().unwrap_or_default().to_owned())
    };
    let authorization = request.header("authorization");
    let rest = authorization.strip_prefix("ACS3-HMAC-SHA256 ").context("another algorithm")?;
    let part = |name| value(rest, name).with_context(|| format!("no {name}"));
    let (id, names, signature) = (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    let key = state.keys.iter().find(|key| key.id == id).context("InvalidAccessKeyId.NotFound")?;
    ensure!(
        request.header("x-acs-security-token") == key.token.as_deref().unwrap_or_default(),
        "InvalidSecurityToken"
    );
    for needed in [
        "host",
        "x-acs-action",
        "x-acs-content-sha256",
        "x-acs-date",
        "x-acs-signature-nonce",
        "x-acs-version",
    ] {
        ensure!(names.split(';').any(|name| name == needed), "{needed} is not signed");
    }
    ensure!(key.token.is_none() || names.contains("x-acs-security-token"), "the token is not signed");
    ensure!(request.header("x-acs-version") == "2016-04-28", "another version");
    let date = request.header("x-acs-date");
    ensure!(date.len() == 20 && date.ends_with('Z') && date.as_bytes()[10] == b'T', "the date {date}");
    let payload = hex(&Sha256::digest(request.body.as_bytes()));
    ensure!(request.header("x-acs-content-sha256") == payload, "the body is not the signed one");
    let mut query: Vec<_> = request.query().split('&').collect();
    query.sort_unstable();
    let headers: String = names.split(';').map(|name| format!("{name}:{}\n", request.header(name))).collect();
    let text = [&request.method, request.path(), &query.join("&"), &headers, &names, &payload].join("\n");
    let text = format!("ACS3-HMAC-SHA256\n{}", hex(&Sha256::digest(text.as_bytes())));
    ensure!(
        hex(&hmac(key.secret.as_bytes(), text.as_bytes())) == signature,
        "the signature is of something else"
    );
    ensure!(state.nonces.insert(request.header("x-acs-signature-nonce").to_owned()), "SignatureNonceUsed");
    Ok(())
}

/// HMAC-SHA256 (RFC 2104) with a key of at most 64 bytes.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let padded = |pad: u8| -> Vec<u8> {
        let key = key.iter().copied().chain(std::iter::repeat(0)).take(64);
        key.map(|byte| byte ^ pad).collect()
    };
    let inner = Sha256::digest([&padded(0x36), text].concat());
    Sha256::digest([&padded(0x5c)[..], &inner].concat()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
