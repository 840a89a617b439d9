//! A project of Google Compute Engine: its interface, the metadata of its instances, and tokens. It answers as the documentation
//! says: pages, operations that take a while, errors.

mod account;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Cloud;
use super::server::{Reply, Request, Server};
use crate::cluster::{Cluster, MGMT};
use crate::process::{LIMIT, finish};
use crate::require::require_commands;

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const PROJECT: &str = "projects/bed-1234";
const ZONE: &str = "europe-west1-b";
/// The host of the URLs by which resources name each other.
const HOST: &str = "https://www.googleapis.com/compute/v1";
/// So many routes are on a page.
const PAGE: usize = 2;
/// So often an operation is asked for until it is done.
const POLLS: usize = 2;

/// A running project. Dropping it ends its servers.
#[derive(Debug)]
pub struct Project {
    _metadata: Server,
    interface: Server,
    state: Arc<Mutex<State>>,
    folder: PathBuf,
}

/// What the project has.
#[derive(Debug, Default)]
struct State {
    /// Names and addresses.
    instances: Vec<(String, Ipv4Addr)>,
    forwards: bool,
    routes: Vec<Value>,
    operations: BTreeMap<String, Operation>,
    tokens: BTreeSet<String>,
    issued: usize,
    /// So many further requests are too many.
    too_many: usize,
    /// No route fits any more.
    full: bool,
    /// The public key of the service account.
    public_key: PathBuf,
    /// The e-mail address of whoever has got a token for a key.
    by_key: Option<String>,
}

/// A change that goes on.
#[derive(Clone, Debug)]
struct Operation {
    polls: usize,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Value),
    Delete(String),
}

impl Project {
    /// Starts it with an instance for each node.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        require_commands(&["openssl"])?;
        let instances = cluster.nodes().iter().map(|node| (node.name().to_owned(), node.ip())).collect();
        let folder = cluster.dir().to_owned();
        let public_key = folder.join("account.pub");
        let state = State { instances, forwards: true, public_key, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let router = cluster.fabric().context("the topology has no router")?;
        router.ip(&[format!("addr add {METADATA}/32 dev lo")])?;
        let of_metadata = Arc::clone(&state);
        let metadata = Server::start(router, METADATA.into(), 80, move |request| {
            metadata(&mut lock(&of_metadata), request)
        })?;
        let of_interface = Arc::clone(&state);
        let interface = Server::start(cluster.mgmt(), MGMT.into(), 0, move |request| {
            answer(&mut lock(&of_interface), request)
        })?;
        Ok(Self { _metadata: metadata, interface, state, folder })
    }

    fn url(&self) -> String {
        format!("http://{}", self.interface.address())
    }

    /// Makes a service account with a key file, and returns the file.
    pub fn key_file(&self) -> Result<PathBuf> {
        let [private, public] = ["account.key", "account.pub"].map(|name| self.folder.join(name));
        let openssl = |arguments: &[&str], from: Option<&Path>, to: &Path| {
            let mut command = Command::new("openssl");
            command
                .args(arguments)
                .args(from.map(|from| ["-in".as_ref(), from.as_os_str()]).into_iter().flatten());
            finish(command.arg("-out").arg(to), "", LIMIT)
        };
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], None, &private)?;
        openssl(&["pkey", "-pubout"], Some(&private), &public)?;
        let file = self.folder.join("account.json");
        let key = json!({
            "type": "service_account",
            "client_email": "flannel@bed-1234.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": fs::read_to_string(&private)?,
            "token_uri": format!("{}/token", self.url()),
        });
        fs::write(&file, key.to_string())?;
        Ok(file)
    }

    /// Returns the account that has got a token for its key; `None` if none has.
    pub fn account_by_key(&self) -> Option<String> {
        self.lock().by_key.clone()
    }

    /// Adds a route by somebody else to an instance of a name.
    pub fn add_route(&self, name: &str, to: &str, instance: &str) {
        let route = json!({"name": name, "destRange": to, "network": network(), "priority": 900,
            "nextHopInstance": format!("{HOST}/{PROJECT}/zones/{ZONE}/instances/{instance}")});
        self.lock().routes.push(route);
    }

    /// Removes a route at once.
    pub fn remove_route(&self, name: &str) {
        self.lock().routes.retain(|route| route["name"] != name);
    }

    /// Returns all routes: names, destinations and the names of the instances that they lead to.
    pub fn routes(&self) -> Vec<(String, String, String)> {
        let text = |route: &Value, key: &str| route[key].as_str().unwrap_or_default().to_owned();
        let last = |url: String| url.rsplit('/').next().unwrap_or_default().to_owned();
        let mut routes: Vec<_> = (self.lock().routes.iter())
            .map(|route| {
                (text(route, "name"), text(route, "destRange"), last(text(route, "nextHopInstance")))
            })
            .collect();
        routes.sort();
        routes
    }

    /// Makes instances that may not forward, or that may.
    pub fn set_forwarding(&self, may_forward: bool) {
        self.lock().forwards = may_forward;
    }

    /// Has the next requests refused, since there are too many.
    pub fn refuse(&self, requests: usize) {
        self.lock().too_many = requests;
    }

    /// Has no room for further routes, or has.
    pub fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// Makes all tokens invalid.
    pub fn revoke(&self) {
        self.lock().tokens.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Cloud for Project {
    fn environment(&self) -> (String, String) {
        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE".to_owned(), format!("{}/compute/v1/", self.url()))
    }

    fn next_hops(&self) -> Result<Vec<(String, IpAddr)>> {
        let routes = self.routes();
        let instances = &self.lock().instances;
        let hop = |(_, to, instance)| {
            let (_, ip) = instances.iter().find(|(name, _)| *name == instance)?;
            Some((to, IpAddr::V4(*ip)))
        };
        Ok(routes.into_iter().filter_map(hop).collect())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn network() -> String {
    format!("{HOST}/{PROJECT}/global/networks/default")
}

fn metadata(state: &mut State, request: &Request) -> Reply {
    let name = state.instances.iter().find(|(_, ip)| *ip == request.from).map(|(name, _)| name.clone());
    let Some(name) = name.filter(|_| request.header("metadata-flavor") == "Google") else {
        return Reply::new(403, "Forbidden");
    };
    let reply = match request.path().strip_prefix("/computeMetadata/v1/") {
        Some("project/project-id") => Reply::new(200, "bed-1234"),
        Some("instance/zone") => Reply::new(200, format!("projects/1234/zones/{ZONE}")),
        Some("instance/name") => Reply::new(200, name),
        Some("instance/service-accounts/default/token") => Reply::new(200, token(state)),
        _ => Reply::new(404, "Not Found"),
    };
    reply.header("Metadata-Flavor", "Google")
}

fn token(state: &mut State) -> String {
    state.issued += 1;
    let token = format!("ya29.{}", state.issued);
    state.tokens.insert(token.clone());
    json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).to_string()
}

/// Answers at the interface, and at the place where keys are exchanged for tokens.
fn answer(state: &mut State, request: &Request) -> Reply {
    if request.target == "/token" && request.method == "POST" {
        return match account::check(&state.public_key, &request.body) {
            Ok(account) => {
                state.by_key = Some(account);
                Reply::new(200, token(state))
            }
            Err(error) => Reply::new(
                400,
                json!({"error": "invalid_grant", "error_description": format!("{error:#}")}).to_string(),
            ),
        };
    }
    let token = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if !state.tokens.contains(token) {
        return error(401, "authError", "Request had invalid authentication credentials.");
    }
    if state.too_many > 0 {
        state.too_many -= 1;
        return error(403, "rateLimitExceeded", "Rate Limit Exceeded");
    }
    let Some(path) = request.path().strip_prefix(&format!("/compute/v1/{PROJECT}/")) else {
        return error(404, "notFound", "The requested URL was not found on this server.");
    };
    let parts: Vec<_> = path.split('/').collect();
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["zones", ZONE, "instances", name]) => instance(state, name),
        ("GET", ["global", "routes"]) => list(state, request.query()),
        ("POST", ["global", "routes"]) => insert(state, &request.body),
        ("DELETE", ["global", "routes", name]) => delete(state, name),
        ("GET", ["global", "operations", name]) => poll(state, name),
        _ => error(404, "notFound", "The resource was not found"),
    }
}

fn error(code: u16, reason: &str, message: &str) -> Reply {
    let body = json!({"error": {"code": code, "message": message,
        "errors": [{"message": message, "domain": "global", "reason": reason}]}});
    Reply::new(code, body.to_string())
}

fn instance(state: &State, name: &str) -> Reply {
    let Some((_, ip)) = state.instances.iter().find(|(known, _)| known == name) else {
        return error(404, "notFound", "The resource was not found");
    };
    let instance = json!({"kind": "compute#instance", "name": name, "canIpForward": state.forwards, "status": "RUNNING",
        "selfLink": format!("{HOST}/{PROJECT}/zones/{ZONE}/instances/{name}"),
        "networkInterfaces": [{"network": network(), "networkIP": ip, "name": "nic0"}]});
    Reply::new(200, instance.to_string())
}

fn list(state: &State, query: &str) -> Reply {
    let parameters = Request::parameters(query);
    let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let size: usize = value("maxResults").and_then(|size| size.parse().ok()).unwrap_or(500);
    if !(1..=500).contains(&size) {
        return error(400, "invalid", "Invalid value for field 'maxResults'");
    }
    let start: usize =
        value("pageToken").and_then(|token| token.strip_prefix("at-")?.parse().ok()).unwrap_or_default();
    // Fewer than asked for are allowed.
    let end = (start + size.min(PAGE)).min(state.routes.len());
    let mut page = json!({"kind": "compute#routeList", "items": &state.routes[start.min(end)..end]});
    if end < state.routes.len() {
        page["nextPageToken"] = format!("at-{end}").into();
    }
    Reply::new(200, page.to_string())
}

fn insert(state: &mut State, body: &str) -> Reply {
    const KEYS: [&str; 7] =
        ["name", "description", "destRange", "network", "nextHopInstance", "priority", "tags"];
    let Ok(mut route) = serde_json::from_str::<Value>(body) else {
        return error(400, "parseError", "Parse Error");
    };
    let unknown =
        route.as_object().and_then(|fields| fields.keys().find(|key| !KEYS.contains(&key.as_str())));
    if let Some(unknown) = unknown {
        return error(400, "invalid", &format!("Unknown name {unknown}"));
    }
    let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
    let (name, hop) = (text("name"), text("nextHopInstance"));
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let is_name = name.starts_with(|letter: char| letter.is_ascii_lowercase()) && name.len() <= 63;
    if !is_name || !name.chars().all(is_letter) || name.ends_with('-') {
        return error(400, "invalid", "Invalid value for field 'resource.name'");
    }
    let instance = hop.rsplit('/').next().unwrap_or_default();
    if !state.instances.iter().any(|(known, _)| known == instance) || text("network") != network() {
        return error(400, "invalid", "Invalid value for field 'resource.nextHopInstance'");
    }
    if state.routes.iter().any(|known| known["name"] == name.as_str()) {
        return error(
            409,
            "alreadyExists",
            &format!("The resource '{PROJECT}/global/routes/{name}' already exists"),
        );
    }
    if state.full {
        return error(403, "quotaExceeded", "Quota 'ROUTES' exceeded. Limit: 250.0 globally.");
    }
    route["kind"] = "compute#route".into();
    begin(state, Change::Insert(route))
}

fn delete(state: &mut State, name: &str) -> Reply {
    if !state.routes.iter().any(|route| route["name"] == name) {
        return error(
            404,
            "notFound",
            &format!("The resource '{PROJECT}/global/routes/{name}' was not found"),
        );
    }
    begin(state, Change::Delete(name.to_owned()))
}

fn begin(state: &mut State, change: Change) -> Reply {
    let name = format!("operation-{}", state.operations.len() + 1);
    state.operations.insert(name.clone(), Operation { polls: POLLS, change });
    Reply::new(
        200,
        json!({"kind": "compute#operation", "name": name, "status": "PENDING", "progress": 0}).to_string(),
    )
}

fn poll(state: &mut State, name: &str) -> Reply {
    let State { operations, routes, .. } = state;
    let Some(Operation { polls, change }) = operations.get_mut(name) else {
        return error(404, "notFound", "The resource was not found");
    };
    *polls = polls.saturating_sub(1);
    if *polls > 0 {
        return Reply::new(200, json!({"name": name, "status": "RUNNING", "progress": 50}).to_string());
    }
    match change.clone() {
        Change::Insert(route) => {
            // Another one may have been faster.
            if !routes.iter().any(|known| known["name"] == route["name"]) {
                routes.push(route);
            }
        }
        Change::Delete(name) => routes.retain(|route| route["name"] != name.as_str()),
    }
    Reply::new(200, json!({"name": name, "status": "DONE", "progress": 100}).to_string())
}
