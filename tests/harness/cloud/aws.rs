//! A VPC of Amazon: moto, an implementation of EC2's interface that checks signatures and permissions, with an instance for each
//! node of a cluster; and the metadata of the instances (IMDSv2).
//!
//! moto stands behind a gate, which does what moto does not: it marks routes to interfaces that are gone as `blackhole`, and answers
//! that there are too many requests.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::Cloud;
use super::server::{Reply, Request, Server};
use crate::cluster::{Cluster, MGMT};
use crate::netns::NetNs;
use crate::owner::MARK;
use crate::process::Daemon;
use crate::require::require_tool;
use crate::wait::patiently;

/// The address of the metadata server.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const MOTO: SocketAddr = SocketAddr::new(IpAddr::V4(MGMT), 5001);
const REGION: &str = "eu-west-1";
const ROLE: &str = "flannel";
const TOKEN: &str = "AQAEAHVuZ3Vlc3NhYmxl";
/// moto reads thousands of files when it starts.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A node as an instance.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its ID: `i-...`.
    pub id: String,
    /// The ID of its network interface: `eni-...`.
    pub interface: String,
    /// Its address.
    pub ip: IpAddr,
}

/// A route of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Its destination.
    pub to: String,
    /// The interface that it leads to; empty if it leads elsewhere.
    pub interface: String,
}

/// A running VPC. Dropping it ends its servers.
#[derive(Debug)]
pub struct Vpc {
    _metadata: Server,
    gate: Server,
    _moto: Daemon,
    netns: Arc<NetNs>,
    state: Arc<Mutex<State>>,
    /// Its ID: `vpc-...`.
    pub id: String,
    /// The instances, in the order of the nodes.
    pub instances: Vec<Instance>,
    /// The main route table: `rtb-...`.
    pub main_table: String,
}

/// What the gate does.
#[derive(Debug, Default)]
struct State {
    /// So many further requests are too many.
    too_many: usize,
    /// Interfaces that are gone.
    gone: BTreeSet<String>,
    /// The actions of all requests.
    actions: Vec<String>,
}

impl Vpc {
    /// Starts it with an instance for each node. The instances have a role with this policy, which is JSON.
    pub fn start(cluster: &Cluster, policy: &str) -> Result<Self> {
        let program = require_tool("moto_server")?;
        let netns = Arc::clone(cluster.mgmt());
        let mut command = netns.command(program);
        command.env(MARK, netns.name()).env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false");
        command.args(["-H", &MOTO.ip().to_string(), "-p", &MOTO.port().to_string()]);
        let mut moto = Daemon::start("moto", command, &cluster.dir().join("moto.log"))?;
        let mut ended = Ok(());
        let ready = patiently("moto answers", START_LIMIT, || {
            ended = moto.ensure_running();
            if ended.is_err() { Ok(()) } else { moto_request(&netns, "/moto-api/", "").map(drop) }
        });
        ended?;
        ready?;
        let moto_client = Moto(&netns);
        let id = moto_client.ec2_id("CreateVpc", &[("CidrBlock", "192.168.0.0/16")], "vpcId")?;
        let tables = moto_client
            .ec2("DescribeRouteTables", &[("Filter.1.Name", "vpc-id"), ("Filter.1.Value.1", &id)])?;
        let main_table = first(&tables, "routeTableId")?;
        let instances = moto_client.instances(cluster, &id)?;
        let credentials = moto_client.credentials(policy)?;
        moto_client.check_permissions(true)?;
        let state = Arc::new(Mutex::new(State::default()));
        let gate = gate(&netns, &state)?;
        let metadata = metadata(cluster, &instances, credentials)?;
        Ok(Self { _metadata: metadata, gate, _moto: moto, netns, state, id, instances, main_table })
    }

    /// Makes a request without permissions being checked: names and values. Returns XML.
    pub fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let moto = Moto(&self.netns);
        moto.check_permissions(false)?;
        let answer = moto.ec2(action, parameters);
        moto.check_permissions(true)?;
        answer
    }

    /// Makes a route table, and returns its ID.
    pub fn add_table(&self) -> Result<String> {
        first(&self.call("CreateRouteTable", &[("VpcId", &self.id)])?, "routeTableId")
    }

    /// Returns the routes of a table that are not the VPC's own.
    pub fn routes(&self, table: &str) -> Result<Vec<Route>> {
        let answer = self.call("DescribeRouteTables", &[("RouteTableId.1", table)])?;
        let mut routes: Vec<_> = entries(&answer)
            .filter(|entry| !entry.contains("<gatewayId>local<"))
            .map(|entry| Route {
                to: between(&entry, "destinationCidrBlock")
                    .or_else(|| between(&entry, "destinationIpv6CidrBlock"))
                    .unwrap_or_default(),
                interface: between(&entry, "networkInterfaceId").unwrap_or_default(),
            })
            .collect();
        routes.sort();
        Ok(routes)
    }

    /// Returns whether the VPC drops packets that are not to or from the address of a node's interface.
    pub fn checks_addresses(&self, node: usize) -> Result<bool> {
        let answer = self.call("DescribeInstances", &[("InstanceId.1", &self.instances[node].id)])?;
        let interface =
            answer.split("<networkInterfaceSet>").nth(1).context("the instance has no interface")?;
        Ok(first(interface, "sourceDestCheck")? == "true")
    }

    /// Ends an instance: routes to it lead nowhere.
    pub fn end_instance(&self, node: usize) {
        self.lock().gone.insert(self.instances[node].interface.clone());
    }

    /// Has the next requests refused, since there are too many.
    pub fn refuse(&self, requests: usize) {
        self.lock().too_many = requests;
    }

    /// Returns the actions of the agents' requests since the last call, also of those that are refused.
    pub fn take_actions(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().actions)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Cloud for Vpc {
    fn environment(&self) -> (String, String) {
        ("AWS_ENDPOINT_URL".to_owned(), format!("http://{}", self.gate.address()))
    }

    /// The main table's.
    fn next_hops(&self) -> Result<Vec<(String, IpAddr)>> {
        let gone = &self.lock().gone;
        let routes = self.routes(&self.main_table)?.into_iter();
        let alive = routes.filter(|route| !gone.contains(&route.interface));
        let hop = |Route { to, interface }| {
            let instance = self.instances.iter().find(|instance| instance.interface == interface)?;
            Some((to, instance.ip))
        };
        Ok(alive.filter_map(hop).collect())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a gate before moto.
fn gate(netns: &Arc<NetNs>, state: &Arc<Mutex<State>>) -> Result<Server> {
    let (behind, state) = (Arc::clone(netns), Arc::clone(state));
    Server::start(netns, MGMT.into(), 0, move |request| pass(&behind, &state, request))
}

fn pass(netns: &NetNs, state: &Mutex<State>, request: &Request) -> Reply {
    let action = request.body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default();
    {
        let mut state = lock(state);
        state.actions.push(action.to_owned());
        if state.too_many > 0 {
            state.too_many -= 1;
            // As the documentation of EC2 has it ("Common errors", "Request throttling").
            let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>RequestLimitExceeded</Code>\
                        <Message>Request limit exceeded.</Message></Error></Errors><RequestID>0</RequestID></Response>";
            return Reply::new(503, text);
        }
    }
    let answer = netns.tcp_connect(MOTO).and_then(|stream| request.forward(stream));
    let mut answer = answer.unwrap_or_else(|error| Reply::new(502, format!("{error:#}")));
    if action == "DescribeRouteTables" {
        let gone = &lock(state).gone;
        answer.body = with_blackholes(&answer.body, gone);
    }
    answer
}

/// Marks the routes to these interfaces.
fn with_blackholes(answer: &str, gone: &BTreeSet<String>) -> String {
    let mut marked = answer.to_owned();
    for entry in entries(answer) {
        if between(&entry, "networkInterfaceId").is_some_and(|interface| gone.contains(&interface)) {
            marked = marked.replace(&entry, &entry.replace("<state>active<", "<state>blackhole<"));
        }
    }
    marked
}

/// Starts the metadata server on the underlay's router. It knows the nodes by their addresses.
fn metadata(cluster: &Cluster, instances: &[Instance], credentials: String) -> Result<Server> {
    let router = cluster.fabric().context("the topology has no router")?;
    router.ip(&[format!("addr add {METADATA}/32 dev lo")])?;
    let instances = instances.to_vec();
    Server::start(router, METADATA.into(), 80, move |request| {
        let Some(instance) = instances.iter().find(|instance| instance.ip == request.from) else {
            return Reply::new(404, "no such instance");
        };
        if request.method == "PUT" && request.target == "/latest/api/token" {
            let ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds");
            return match ttl.parse::<u32>() {
                Ok(1..=21_600) => Reply::new(200, TOKEN).header("x-aws-ec2-metadata-token-ttl-seconds", ttl),
                _ => Reply::new(400, "Bad Request"),
            };
        }
        if request.header("x-aws-ec2-metadata-token") != TOKEN {
            return Reply::new(401, "Unauthorized");
        }
        match request.path().strip_prefix("/latest/meta-data/") {
            Some("instance-id") => Reply::new(200, &*instance.id),
            Some("placement/region") => Reply::new(200, REGION),
            Some("services/domain") => Reply::new(200, "amazonaws.com"),
            Some("iam/security-credentials/") => Reply::new(200, ROLE),
            Some("iam/security-credentials/flannel") => Reply::new(200, &*credentials),
            _ => Reply::new(404, "Not Found"),
        }
    })
}

/// moto, without the gate.
struct Moto<'a>(&'a NetNs);

impl Moto<'_> {
    /// From now on requests need a signature and permissions, or not.
    fn check_permissions(&self, checked: bool) -> Result<()> {
        moto_request(self.0, "/moto-api/reset-auth", if checked { "0" } else { "inf" }).map(drop)
    }

    fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        self.call("ec2", "2016-11-15", action, parameters)
    }

    fn ec2_id(&self, action: &str, parameters: &[(&str, &str)], tag: &str) -> Result<String> {
        first(&self.ec2(action, parameters)?, tag)
    }

    fn call(
        &self,
        service: &str,
        version: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<String> {
        let fixed = [("Action", action), ("Version", version)];
        let pairs: Vec<_> =
            fixed.iter().chain(parameters).map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=bed/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        request(self.0, "/", &pairs.join("&"), &authorization)
    }

    /// Makes an instance for each node, in a subnet for each of its segments.
    fn instances(&self, cluster: &Cluster, vpc: &str) -> Result<Vec<Instance>> {
        let mut subnets: Vec<(String, String)> = Vec::new();
        let mut instances = Vec::new();
        for node in cluster.nodes() {
            let [a, b, c, _] = node.ip().octets();
            let segment = format!("{a}.{b}.{c}.0/24");
            if !subnets.iter().any(|(known, _)| *known == segment) {
                let made =
                    self.ec2_id("CreateSubnet", &[("VpcId", vpc), ("CidrBlock", &segment)], "subnetId")?;
                subnets.push((segment.clone(), made));
            }
            let (_, subnet) = subnets.iter().find(|(known, _)| *known == segment).context("no subnet")?;
            let ip = node.ip().to_string();
            let parameters = [
                ("ImageId", "ami-12345678"),
                ("MinCount", "1"),
                ("MaxCount", "1"),
                ("SubnetId", subnet),
                ("PrivateIpAddress", &ip),
            ];
            let made = self.ec2("RunInstances", &parameters)?;
            let (id, interface) = (first(&made, "instanceId")?, first(&made, "networkInterfaceId")?);
            ensure!(
                made.contains(&format!("<privateIpAddress>{ip}<")),
                "the instance has another address: {made}"
            );
            instances.push(Instance { id, interface, ip: node.ip().into() });
        }
        Ok(instances)
    }

    /// Makes the instances' role, and returns its credentials as the metadata have them.
    fn credentials(&self, policy: &str) -> Result<String> {
        let trust = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]});
        let iam = |action, parameters: &[(&str, &str)]| self.call("iam", "2010-05-08", action, parameters);
        let role =
            iam("CreateRole", &[("RoleName", ROLE), ("AssumeRolePolicyDocument", &trust.to_string())])?;
        iam("PutRolePolicy", &[("RoleName", ROLE), ("PolicyName", "routes"), ("PolicyDocument", policy)])?;
        let arn = first(&role, "Arn")?;
        let session =
            self.call("sts", "2011-06-15", "AssumeRole", &[("RoleArn", &arn), ("RoleSessionName", "node")])?;
        Ok(json!({
            "Code": "Success",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Type": "AWS-HMAC",
            "AccessKeyId": first(&session, "AccessKeyId")?,
            "SecretAccessKey": first(&session, "SecretAccessKey")?,
            "Token": first(&session, "SessionToken")?,
            "Expiration": "2099-01-01T00:00:00Z",
        })
        .to_string())
    }
}

fn moto_request(netns: &NetNs, path: &str, body: &str) -> Result<String> {
    request(netns, path, body, "")
}

fn request(netns: &NetNs, path: &str, body: &str, authorization: &str) -> Result<String> {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![
        header("host", &MOTO.to_string()),
        header(
            "content-type",
            if authorization.is_empty() { "text/plain" } else { "application/x-www-form-urlencoded" },
        ),
        header("content-length", &body.len().to_string()),
        header("authorization", authorization),
    ];
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request {
        method: method.to_owned(),
        target: path.to_owned(),
        headers: headers.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
        body: body.to_owned(),
        from: MOTO.ip(),
    };
    let answer = request.forward(netns.tcp_connect(MOTO)?)?;
    ensure!(answer.status == 200, "moto answers {}: {}", answer.status, answer.body);
    Ok(answer.body)
}

/// Returns a value as it stands in a form.
fn encode(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}

/// Returns the routes of all tables, each as XML.
fn entries(answer: &str) -> impl Iterator<Item = String> {
    let sets = answer.split("<routeSet>").skip(1).filter_map(|rest| rest.split("</routeSet>").next());
    let routes = sets.flat_map(|set| set.split("<item>").skip(1));
    routes.filter_map(|route| route.split("</item>").next()).map(str::to_owned)
}

/// Returns the text of the first element with this tag.
fn between(xml: &str, tag: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once("</")?.0.to_owned())
}

fn first(xml: &str, tag: &str) -> Result<String> {
    between(xml, tag).with_context(|| format!("no {tag} in {xml}"))
}
