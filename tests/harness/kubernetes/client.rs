//! Reads and writes objects of the Kubernetes API, over the socket of a `kubectl proxy`.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::http;
use crate::wait::scaled;

const TIMEOUT: Duration = Duration::from_secs(10);
const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const NODES: &str = "/api/v1/nodes";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A client with an administrator's rights.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A Kubernetes Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Why it was written, in one word.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// `Normal` or `Warning`.
    pub kind: String,
    /// How often it happened.
    pub count: u64,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Fails until the API server is ready. It makes the namespace `default` a moment later than it says so.
    pub(super) fn ready(&self) -> Result<()> {
        for path in ["/readyz", "/api/v1/namespaces/default"] {
            let (status, body) = self.exchange("GET", path, JSON, "")?;
            ensure!(status == 200, "{path}: status {status}: {body}");
        }
        Ok(())
    }

    /// Reads an object. None if there is none.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.exchange("GET", path, JSON, "")? {
            (404, _) => Ok(None),
            answer => parsed("GET", path, answer).map(Some),
        }
    }

    /// Reads an object or a list.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request("GET", path, JSON, &Value::Null)
    }

    /// Creates an object in this collection.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.request("POST", path, JSON, object)
    }

    /// Changes fields of an object. Null removes one.
    pub fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.request("PATCH", path, MERGE_PATCH, change)
    }

    /// Removes an object, at once.
    pub fn delete(&self, path: &str) -> Result<()> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        self.request("DELETE", path, JSON, &options).map(drop)
    }

    /// Creates a Node as its kubelet registers it, without annotations. kube-controller-manager would give it its podCIDRs.
    pub fn create_node(&self, name: &str, pod_cidrs: &[&str]) -> Result<Value> {
        self.create(NODES, &node(name, pod_cidrs))
    }

    /// Gives a Node that has none its podCIDRs.
    pub fn assign(&self, name: &str, pod_cidrs: &[&str]) -> Result<()> {
        let spec = json!({"spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs}});
        self.patch(&format!("{NODES}/{name}"), &spec).map(drop)
    }

    /// Sets a condition of a Node, as a controller does.
    pub fn set_condition(&self, name: &str, condition: &Value) -> Result<()> {
        let status = json!({"status": {"conditions": [condition]}});
        self.request("PATCH", &format!("{NODES}/{name}/status"), STRATEGIC_PATCH, &status).map(drop)
    }

    /// Reads a Node.
    pub fn node(&self, name: &str) -> Result<Value> {
        self.get(&format!("{NODES}/{name}"))
    }

    /// Sets annotations of a Node; removes those without a value.
    pub fn annotate(&self, name: &str, annotations: &[(String, Option<&str>)]) -> Result<()> {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        self.patch(&format!("{NODES}/{name}"), &json!({"metadata": {"annotations": annotations}})).map(drop)
    }

    /// Writes what a kubelet writes every few seconds.
    pub fn heartbeat(&self, name: &str, number: u32) -> Result<()> {
        let time =
            format!("2026-01-01T{:02}:{:02}:{:02}Z", number / 3600 % 24, number / 60 % 60, number % 60);
        self.set_condition(name, &json!({"type": "Ready", "status": "True", "lastHeartbeatTime": time}))
    }

    /// Removes a Node.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        self.delete(&format!("{NODES}/{name}"))
    }

    /// Reads the Events about a Node.
    pub fn events(&self, node: &str) -> Result<Vec<Event>> {
        let selector = format!("involvedObject.kind=Node,involvedObject.name={node}");
        let list = self.get(&format!("/api/v1/events?fieldSelector={selector}"))?;
        let events = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        events.iter().map(event).collect()
    }

    /// Creates a service account.
    pub fn create_account(&self, namespace: &str, name: &str) -> Result<()> {
        self.create(&accounts(namespace), &json!({"metadata": {"name": name}})).map(drop)
    }

    /// Removes a service account, which makes its tokens invalid.
    pub fn delete_account(&self, namespace: &str, name: &str) -> Result<()> {
        self.delete(&format!("{}/{name}", accounts(namespace)))
    }

    /// Returns a token of a service account, valid for an hour.
    pub fn token(&self, namespace: &str, name: &str) -> Result<String> {
        let request = json!({"kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
        let answer = self.create(&format!("{}/{name}/token", accounts(namespace)), &request)?;
        Ok(answer["status"]["token"].as_str().context("the answer has no token")?.to_owned())
    }

    /// Returns whether a token is valid.
    pub fn accepts(&self, token: &str) -> Result<bool> {
        let review = json!({"spec": {"token": token}});
        let answer = self.create("/apis/authentication.k8s.io/v1/tokenreviews", &review)?;
        Ok(answer["status"]["authenticated"] == true)
    }

    /// Creates a ClusterRole.
    pub fn create_role(&self, name: &str, rules: &Value) -> Result<()> {
        self.create(&format!("{RBAC}/clusterroles"), &json!({"metadata": {"name": name}, "rules": rules}))
            .map(drop)
    }

    /// Changes the rules of a ClusterRole.
    pub fn change_role(&self, name: &str, rules: &Value) -> Result<()> {
        self.patch(&format!("{RBAC}/clusterroles/{name}"), &json!({"rules": rules})).map(drop)
    }

    /// Removes a ClusterRole.
    pub fn delete_role(&self, name: &str) -> Result<()> {
        self.delete(&format!("{RBAC}/clusterroles/{name}"))
    }

    /// Gives a service account the rights of a ClusterRole.
    pub fn bind(&self, name: &str, role: &str, namespace: &str, account: &str) -> Result<()> {
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
        });
        self.create(&format!("{RBAC}/clusterrolebindings"), &binding).map(drop)
    }

    /// Takes these rights away.
    pub fn unbind(&self, name: &str) -> Result<()> {
        self.delete(&format!("{RBAC}/clusterrolebindings/{name}"))
    }

    /// Returns whether a service account may do this: `patch`, `nodes/status`.
    pub fn may(&self, namespace: &str, account: &str, verb: &str, resource: &str) -> Result<bool> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({"spec": {
            "user": format!("system:serviceaccount:{namespace}:{account}"),
            "resourceAttributes": {"verb": verb, "resource": resource, "subresource": subresource},
        }});
        let answer = self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)?;
        answer["status"]["allowed"].as_bool().context("the answer says neither yes nor no")
    }

    fn request(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        parsed(method, path, self.exchange(method, path, content_type, &body)?)
    }

    fn exchange(&self, method: &str, path: &str, content_type: &str, body: &str) -> Result<(u16, String)> {
        let stream = UnixStream::connect(&self.socket).context("connect to kubectl proxy")?;
        stream.set_read_timeout(Some(scaled(TIMEOUT)))?;
        stream.set_write_timeout(Some(scaled(TIMEOUT)))?;
        http::exchange(stream, method, path, content_type, body.as_bytes())
            .with_context(|| format!("{method} {path} at the API server"))
    }
}

fn parsed(method: &str, path: &str, (status, body): (u16, String)) -> Result<Value> {
    if !(200..300).contains(&status) {
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or(&body);
        bail!("{method} {path} at the API server: status {status}: {message}");
    }
    serde_json::from_str(&body).with_context(|| format!("{method} {path}: the answer is not JSON"))
}

fn accounts(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/serviceaccounts")
}

/// A Node that has no network yet: its pods have to wait.
fn node(name: &str, pod_cidrs: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {"conditions": [
            {"type": "Ready", "status": "False", "reason": "KubeletNotReady"},
            {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
        ]},
    })
}

fn event(event: &Value) -> Result<Event> {
    let text = |name: &str| {
        Ok::<_, anyhow::Error>(
            event[name].as_str().with_context(|| format!("an Event without {name}"))?.to_owned(),
        )
    };
    let count = event["count"].as_u64().or(event["series"]["count"].as_u64()).unwrap_or(1);
    Ok(Event { reason: text("reason")?, message: text("message")?, kind: text("type")?, count })
}
