//! The Nodes of one cluster in an API server.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{ApiServer, Client, Event, Forwarder, kubeconfig};
use crate::cluster::MGMT;
use crate::failure::Errors;
use crate::netns::NetNs;
use crate::store::Datastore;
use crate::wait::eventually;
use crate::workdir::Workdir;

/// The API server's port in the cluster's management network.
const PORT: u16 = 6443;
/// The namespace of the service accounts.
const NAMESPACE: &str = "default";
/// Time limit for a change of rights to be in force.
const IN_FORCE: Duration = Duration::from_secs(10);

/// The Nodes of one cluster, with an annotation prefix, a service account and a kubeconfig of their own. Dropping it removes
/// its objects from the API server.
#[derive(Debug)]
pub struct KubeStore {
    server: Arc<ApiServer>,
    forwarder: Forwarder,
    tag: String,
    folder: PathBuf,
    nodes: Mutex<Vec<String>>,
    _workdir: Arc<Workdir>,
}

impl KubeStore {
    pub(crate) fn new(
        tag: &str,
        mgmt: &NetNs,
        workdir: &Arc<Workdir>,
        server: &Arc<ApiServer>,
    ) -> Result<Self> {
        let forwarder = Forwarder::start(mgmt, SocketAddr::from((MGMT, PORT)), server.address())?;
        let store = Self {
            server: Arc::clone(server),
            forwarder,
            tag: tag.to_owned(),
            folder: workdir.subdir("kubernetes")?,
            nodes: Mutex::default(),
            _workdir: Arc::clone(workdir),
        };
        store.client().create_account(NAMESPACE, tag)?;
        store.client().create_role(tag, &rules())?;
        store.allow()?;
        store.renew_token()?;
        let user = json!({"tokenFile": store.token_file()});
        kubeconfig::write(
            &store.kubeconfig(),
            &format!("https://{MGMT}:{PORT}"),
            &server.authority(),
            &user,
        )?;
        Ok(store)
    }

    /// Returns the client of an administrator.
    pub fn client(&self) -> &Client {
        self.server.client()
    }

    /// Returns the API server.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Returns the way from the nodes to the API server.
    pub fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// Returns the name of a Node in Kubernetes, for a node of this cluster (`node1`) or any other name.
    pub fn name_of(&self, node: &str) -> String {
        format!("{}-{node}", self.tag)
    }

    /// Returns the full name of an annotation: `backend-data` with the prefix.
    pub fn annotation(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix())
    }

    /// Registers a node with these podCIDRs.
    pub fn add_node(&self, node: &str, pod_cidrs: &[&str]) -> Result<()> {
        let name = self.name_of(node);
        self.client().create_node(&name, pod_cidrs)?;
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        Ok(())
    }

    /// Registers a node with annotations, as flanneld leaves them.
    pub fn add_annotated_node(
        &self,
        node: &str,
        pod_cidrs: &[&str],
        annotations: &[(&str, &str)],
    ) -> Result<()> {
        self.add_node(node, pod_cidrs)?;
        let annotations: Vec<_> = annotations.iter().map(|(name, value)| (*name, Some(*value))).collect();
        self.annotate(node, &annotations)
    }

    /// Sets annotations under the prefix; removes those without a value.
    pub fn annotate(&self, node: &str, annotations: &[(&str, Option<&str>)]) -> Result<()> {
        let annotations: Vec<_> =
            annotations.iter().map(|(name, value)| (self.annotation(name), *value)).collect();
        self.client().annotate(&self.name_of(node), &annotations)
    }

    /// Reads a Node.
    pub fn node(&self, node: &str) -> Result<Value> {
        self.client().node(&self.name_of(node))
    }

    /// Reads the annotations under the prefix, sorted, without the prefix.
    pub fn annotations(&self, node: &str) -> Result<Vec<(String, String)>> {
        let object = self.node(node)?;
        let prefix = self.annotation("");
        let annotations = object["metadata"]["annotations"].as_object().into_iter().flatten();
        let own = annotations.filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value.as_str()?)));
        let mut own: Vec<_> = own.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        own.sort_unstable();
        Ok(own)
    }

    /// Returns a condition of a Node: `NetworkUnavailable`.
    pub fn condition(&self, node: &str, kind: &str) -> Result<Value> {
        let object = self.node(node)?;
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let found = conditions.find(|condition| condition["type"] == kind);
        found.cloned().with_context(|| format!("{node} has no condition {kind}"))
    }

    /// Reads the Events about a Node.
    pub fn events(&self, node: &str) -> Result<Vec<Event>> {
        self.client().events(&self.name_of(node))
    }

    /// Removes a Node.
    pub fn delete_node(&self, node: &str) -> Result<()> {
        let name = self.name_of(node);
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != name);
        self.client().delete_node(&name)
    }

    /// Gives the agents the rights of flannel's ClusterRole.
    pub fn allow(&self) -> Result<()> {
        self.client().bind(&self.tag, &self.tag, NAMESPACE, &self.tag)?;
        self.wait_allowed(true)
    }

    /// Takes all rights away.
    pub fn deny(&self) -> Result<()> {
        self.client().unbind(&self.tag)?;
        self.wait_allowed(false)
    }

    /// Makes a new service account in the place of the old one, whose tokens are refused from now on. The agents' token file
    /// still has an old token.
    pub fn revoke_token(&self) -> Result<()> {
        self.client().delete_account(NAMESPACE, &self.tag)?;
        self.client().create_account(NAMESPACE, &self.tag)
    }

    /// Writes a new token for the agents, as the kubelet does.
    pub fn renew_token(&self) -> Result<()> {
        let token = self.client().token(NAMESPACE, &self.tag)?;
        fs::write(self.token_file(), token).context("write a token")
    }

    /// Returns the path of the agents' network configuration, `net-conf.json`.
    pub fn config(&self) -> PathBuf {
        self.folder.join("net-conf.json")
    }

    fn prefix(&self) -> String {
        format!("{}.test", self.tag)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    fn token_file(&self) -> PathBuf {
        self.folder.join("token")
    }

    fn wait_allowed(&self, wanted: bool) -> Result<()> {
        eventually("a change of rights is in force", IN_FORCE, || {
            let allowed = self.client().may_list_nodes(NAMESPACE, &self.tag)?;
            ensure!(allowed == wanted, "not yet");
            Ok(())
        })
    }

    fn remove_objects(&self) -> Result<()> {
        let mut errors = Errors::default();
        for name in self.nodes.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            errors.collect(self.client().delete_node(&name));
        }
        errors.collect(self.client().delete_account(NAMESPACE, &self.tag));
        errors.collect(self.client().delete_role(&self.tag));
        errors.into_result()
    }
}

impl Datastore for KubeStore {
    fn flags(&self) -> Vec<String> {
        vec![
            "--kube-subnet-mgr".to_owned(),
            format!("--kubeconfig-file={}", self.kubeconfig().display()),
            format!("--kube-annotation-prefix={}", self.prefix()),
            format!("--net-config-path={}", self.config().display()),
        ]
    }

    fn environment(&self, node: &str) -> Vec<(String, String)> {
        vec![("NODE_NAME".to_owned(), self.name_of(node))]
    }

    fn configure(&self, json: &str) -> Result<()> {
        fs::write(self.config(), json).context("write the network's configuration")
    }

    fn show(&self) -> String {
        format!("kubectl --kubeconfig {} get nodes", self.kubeconfig().display())
    }
}

impl Drop for KubeStore {
    fn drop(&mut self) {
        if let Err(error) = self.remove_objects() {
            eprintln!("test bed: {error:#}");
        }
    }
}

/// The rights of flannel's ClusterRole.
fn rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ])
}
