//! The Nodes of one cluster in an API server.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
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
/// The file that the agents read, as the ConfigMap has it.
const CONFIG: &str = "net-conf.json";
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
    configs: AtomicU32,
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
            configs: AtomicU32::new(0),
            _workdir: Arc::clone(workdir),
        };
        store.client().create_account(NAMESPACE, tag)?;
        store.client().create_role(tag, server.flannel_rules()?)?;
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

    /// Gives a Node that has none its podCIDRs, as kube-controller-manager does.
    pub fn assign(&self, node: &str, pod_cidrs: &[&str]) -> Result<()> {
        self.client().assign(&self.name_of(node), pod_cidrs)
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
        self.wait_allowed("list", "nodes", true)
    }

    /// Takes all rights away.
    pub fn deny(&self) -> Result<()> {
        self.client().unbind(&self.tag)?;
        self.wait_allowed("list", "nodes", false)
    }

    /// Gives the agents the rights of flannel's ClusterRole without one of them: `list`, `nodes`.
    pub fn allow_without(&self, verb: &str, resource: &str) -> Result<()> {
        let mut rules = self.server.flannel_rules()?.clone();
        let list = rules.as_array_mut().context("flannel's ClusterRole has no rules")?;
        for rule in list.iter_mut().filter(|rule| has(&rule["resources"], resource)) {
            rule["verbs"].as_array_mut().context("a rule without verbs")?.retain(|allowed| allowed != verb);
        }
        list.retain(|rule| rule["verbs"] != json!([]));
        self.client().change_role(&self.tag, &rules)?;
        self.wait_allowed(verb, resource, false)
    }

    /// Makes a new service account in the place of the old one, and waits until the old one's token is refused. The agents'
    /// token file still has it. The API server accepts a token for 10 s more, from its cache.
    pub fn revoke_token(&self) -> Result<()> {
        self.client().delete_account(NAMESPACE, &self.tag)?;
        self.client().create_account(NAMESPACE, &self.tag)?;
        let token = self.token()?;
        eventually("the old token is refused", 2 * IN_FORCE, || {
            ensure!(!self.client().accepts(&token)?, "not yet");
            Ok(())
        })
    }

    /// Writes a new token for the agents, as the kubelet does.
    pub fn renew_token(&self) -> Result<()> {
        let token = self.client().token(NAMESPACE, &self.tag)?;
        fs::write(self.token_file(), token).context("write a token")
    }

    /// Returns the agents' token.
    pub fn token(&self) -> Result<String> {
        fs::read_to_string(self.token_file()).context("read the token")
    }

    /// Replaces the configuration as the kubelet replaces the files of a ConfigMap: a link to a new folder takes the place of
    /// the link to the old one.
    fn mount_config(&self, json: &str) -> std::io::Result<()> {
        let (data, new) = (self.folder.join("..data"), self.folder.join("..data_tmp"));
        let number = self.configs.fetch_add(1, Ordering::Relaxed);
        let folder = format!("..{number}");
        fs::create_dir(self.folder.join(&folder))?;
        fs::write(self.folder.join(&folder).join(CONFIG), json)?;
        symlink(&folder, &new)?;
        fs::rename(&new, &data)?;
        match number {
            0 => symlink(Path::new("..data").join(CONFIG), self.folder.join(CONFIG)),
            _ => fs::remove_dir_all(self.folder.join(format!("..{}", number - 1))),
        }
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

    fn wait_allowed(&self, verb: &str, resource: &str, wanted: bool) -> Result<()> {
        eventually("a change of rights is in force", IN_FORCE, || {
            let allowed = self.client().may(NAMESPACE, &self.tag, verb, resource)?;
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
            format!("--net-config-path={}", self.folder.join(CONFIG).display()),
        ]
    }

    fn environment(&self, node: &str) -> Vec<(String, String)> {
        vec![("NODE_NAME".to_owned(), self.name_of(node))]
    }

    fn configure(&self, json: &str) -> Result<()> {
        self.mount_config(json).context("write the network's configuration")
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

/// Returns whether this is a list with this text in it.
fn has(list: &Value, text: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|item| item == text))
}
