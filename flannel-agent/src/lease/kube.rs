//! Leases in Kubernetes, as flannel has them: a Node's podCIDR is its subnet, and annotations of the Node say how to reach it.
//!
//! kube-controller-manager gives each node its podCIDR, so that there is nothing to choose, to renew or to lose to another
//! node. Every agent writes the annotations of its own Node and reads those of all others (flannel's pkg/subnet/kube).
//!
//! `node` reads the little of a Node that matters. `convert` and `nodes` turn Nodes into leases (pure). `watch`
//! follows the Nodes, `store` reads and writes the own one, and `events` writes what an operator must know.

mod access;
mod annotations;
mod api;
mod convert;
mod events;
#[cfg(test)]
mod fake;
mod node;
mod nodes;
mod session;
mod store;
mod stream;
mod watch;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::config_file::ConfigFile;
use super::entry::{LeaseAttrs, LeaseEnd, RawLease};
use super::key::SubnetKey;
use super::manager::{KnownNode, LeaseUpdate, OwnLease, SubnetManager, parse_config};
use super::notice::{Notice, Severity};
use super::policy::{self, Lifetime, Loss, StoredLease, Traces};
use super::public_ips::PublicIps;
use crate::config::NetworkConfig;
use access::Access;
use annotations::{NODE_PUBLIC_IP, NODE_PUBLIC_IPV6, Prefix};
use api::Api;
use convert::CidrProblem;
use events::Events;
use node::NodeView;
use nodes::{Nodes, OwnNode};
use session::Session;
use store::{KubeStore, Versioned};
use watch::Follower;

/// Returns the leases of these Nodes, the oldest Node first, and what an operator must repair. Each Node is the JSON of the API
/// server. None of them is this node. Pure.
///
/// ```
/// use flannel_agent::lease::kube::leases_of;
///
/// let node = r#"{"metadata":{"name":"w1","annotations":{
///     "flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/backend-type":"host-gw",
///     "flannel.alpha.coreos.com/public-ip":"192.168.64.2"}},"spec":{"podCIDRs":["10.244.1.0/24"]}}"#;
/// let (leases, problems) = leases_of([node], "flannel.alpha.coreos.com")?;
/// assert_eq!((leases[0].key.as_str(), problems), ("10.244.1.0-24", vec![]));
/// # Ok::<_, anyhow::Error>(())
/// ```
///
/// # Errors
/// One is not the JSON of a Node, or the prefix of the annotations has not the form that Kubernetes wants.
pub fn leases_of<'a>(
    nodes: impl IntoIterator<Item = &'a str>,
    annotation_prefix: &str,
) -> Result<(Vec<RawLease>, Vec<String>)> {
    let prefix = Prefix::new(annotation_prefix)?;
    let view = |node| {
        let object = serde_json::from_str(node).context("reading a Node")?;
        Ok(NodeView::new(&object, &prefix))
    };
    let views = nodes.into_iter().map(view).collect::<Result<Vec<_>>>()?;
    let attrs = LeaseAttrs {
        public_ip: None,
        public_ipv6: None,
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
    };
    let nobody = OwnNode { name: "no Node".into(), subnet: SubnetKey { v4: None, v6: None }, attrs };
    let mut nodes = Nodes::new(nobody);
    let problems = nodes.replace(views).problems.into_iter().map(|problem| problem.message);
    let problems = problems.collect();
    Ok((nodes.leases(), problems))
}

/// Pause after a failure of a write that must be done in the end, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How long a node may have no podCIDR before an operator is told. kube-controller-manager gives a new node one within
/// seconds.
const ASSIGNMENT: Duration = Duration::from_secs(10);

/// How to reach Kubernetes.
#[derive(Clone, Debug)]
pub struct KubeOptions {
    /// `--kube-api-url`.
    pub api_url: Option<String>,
    /// `--kubeconfig-file`.
    pub kubeconfig: Option<PathBuf>,
    /// `--kube-annotation-prefix`.
    pub annotation_prefix: String,
    /// `--net-config-path`.
    pub net_config: PathBuf,
    /// `--set-node-network-unavailable`: whether to clear the condition NetworkUnavailable.
    pub clear_network_unavailable: bool,
    /// Which Node this node is.
    pub node: NodeName,
}

/// The name of this node's Node, or where it stands.
#[derive(Clone, Debug)]
pub enum NodeName {
    /// `NODE_NAME`.
    Given(String),
    /// The pod of this process has it: `POD_NAMESPACE`, `POD_NAME`.
    OfPod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
    },
}

/// Kubernetes as datastore. Connects at the first request, and again after a failure.
pub struct KubeManager {
    store: KubeStore,
    session: Session,
    events: Events,
    net_config: ConfigFile,
    clear_network_unavailable: bool,
    /// Since when the node has had no podCIDR.
    waiting: Mutex<Option<Instant>>,
}

impl KubeManager {
    /// Returns a manager for this API server, which need not run yet.
    ///
    /// # Errors
    /// The prefix of the annotations has not the form that Kubernetes wants.
    pub fn new(options: KubeOptions) -> Result<Self> {
        let KubeOptions {
            api_url,
            kubeconfig,
            annotation_prefix,
            net_config,
            clear_network_unavailable,
            node,
        } = options;
        let api = Api::new(Access { api_url, kubeconfig });
        let store = KubeStore::new(api, Prefix::new(&annotation_prefix)?, node);
        let (session, events) = (Session::default(), Events::default());
        let net_config = ConfigFile::new(net_config);
        Ok(Self { store, session, events, net_config, clear_network_unavailable, waiting: Mutex::default() })
    }

    /// Tells an operator why this node takes no subnet. A podCIDR that is missing may still be on its way.
    async fn report_cidr(&self, problem: &CidrProblem) {
        let is_late = match problem {
            CidrProblem::Missing(_) => {
                self.waiting().get_or_insert_with(Instant::now).elapsed() >= ASSIGNMENT
            }
            _ => true,
        };
        if is_late {
            let message = problem.to_string();
            self.report(Notice { reason: "FlannelPodCIDR", message, severity: Severity::Warning }).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads this node's Node.
    async fn own_node(&self) -> Result<Versioned> {
        match self.store.own_node().await? {
            Some(node) => Ok(node),
            None => {
                let name = self.store.node_name().await?;
                Err(anyhow!(
                    "Kubernetes has no node {name}: the kubelet has yet to register it, or NODE_NAME is wrong"
                ))
            }
        }
    }

    /// Writes the annotations, and notes what this node holds.
    async fn write(&self, subnet: SubnetKey, node: Versioned, attrs: LeaseAttrs) -> Result<OwnLease> {
        let node = self.store.annotate(node, &attrs).await?;
        let own = OwnNode { name: node.view.name.clone(), subnet, attrs: attrs.clone() };
        self.session.hold(own, node.view, &node.version);
        Ok(OwnLease { subnet, attrs, term: None, replaced: Vec::new() })
    }
}

impl SubnetManager for KubeManager {
    async fn network_config(&self) -> Result<NetworkConfig> {
        let path = self.net_config.path().display();
        let text = self.net_config.read().with_context(|| {
            format!("reading the network config {path}; the ConfigMap kube-flannel-cfg must be mounted there")
        })?;
        parse_config(&text, &path.to_string())
    }

    async fn config_changed(&self) {
        self.net_config.changed().await;
    }

    async fn known_node(&self) -> Result<KnownNode> {
        let Some(Versioned { view, .. }) = self.store.own_node().await? else {
            return Ok(KnownNode::default());
        };
        for name in [NODE_PUBLIC_IP, NODE_PUBLIC_IPV6, annotations::OVERWRITE, annotations::OVERWRITE_V6] {
            if let Some(text) = view.annotation(name).filter(|text| text.parse::<std::net::IpAddr>().is_err())
            {
                warn!(
                    "the node's annotation {} is {text:?}, which is no address; ignored",
                    self.store.prefix.name(name)
                );
            }
        }
        let public_ips = PublicIps {
            v4: convert::address(&view, NODE_PUBLIC_IP),
            v6: convert::address(&view, NODE_PUBLIC_IPV6),
        };
        Ok(KnownNode { attrs: convert::is_managed(&view).then(|| convert::attrs(&view)), public_ips })
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        _traces: &Traces,
    ) -> Result<OwnLease> {
        let node = self.own_node().await?;
        let subnet = match convert::own_subnet(&node.view, config) {
            Ok(subnet) => subnet,
            Err(problem) => {
                self.report_cidr(&problem).await;
                return Err(problem.into());
            }
        };
        *self.waiting() = None;
        let attrs = convert::with_overwrites(attrs.clone(), &node.view);
        let lease = self.write(subnet, node, attrs).await?;
        info!(lease = %subnet, "took the podCIDR of this node");
        Ok(lease)
    }

    async fn renew(&self, lease: &OwnLease, attrs: &LeaseAttrs) -> Result<Result<OwnLease, Loss>> {
        let Some(node) = self.store.own_node().await? else { return Ok(Err(Loss::Gone)) };
        let attrs = convert::with_overwrites(attrs.clone(), &node.view);
        let value = serde_json::to_string(&attrs)?;
        let entry = own_entry(&node, lease);
        let ours = [&lease.attrs, &attrs].map(PublicIps::from);
        if let Err(loss) = policy::renewal(entry.as_ref(), &ours, &value) {
            return Ok(Err(loss));
        }
        Ok(Ok(self.write(lease.subnet, node, attrs).await?))
    }

    async fn leases(&self) -> Result<Vec<RawLease>> {
        // The watch delivers every change at once. A list of all nodes is too much to ask for because of one packet.
        self.session.leases().context("the nodes have yet to be read")
    }

    async fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) {
        self.session.begin();
        let (notices, mut notified) = mpsc::unbounded_channel();
        let follower = Follower { store: &self.store, session: &self.session, notices };
        let report = async {
            while let Some(notice) = notified.recv().await {
                self.report(notice).await;
            }
        };
        tokio::select! {
            () = super::watch::watch(&follower, updates) => {}
            () = report => {}
        }
    }

    async fn node_is_up(&self) {
        if !self.clear_network_unavailable {
            return;
        }
        let mut pause = Backoff::new(PAUSE.0, PAUSE.1);
        let mut logged = false;
        while let Err(error) = self.store.clear_network_unavailable().await {
            if logged {
                debug!("the node's condition NetworkUnavailable is still not cleared: {error:#}");
            } else {
                warn!("clearing the node's condition NetworkUnavailable: {error:#}; trying again");
            }
            logged = true;
            pause.wait().await;
        }
        debug!("the node's condition NetworkUnavailable is False");
    }

    async fn report(&self, notice: Notice) {
        self.events.report(&self.store, notice).await;
    }
}

/// Returns this node's entry, if its Node still has the subnet. Another address in it is damage: only this node writes there.
fn own_entry(node: &Versioned, lease: &OwnLease) -> Option<StoredLease<()>> {
    let given = convert::subnet(&node.view).ok()?;
    let SubnetKey { v4, v6 } = lease.subnet;
    let enabled = SubnetKey { v4: given.v4.filter(|_| v4.is_some()), v6: given.v6.filter(|_| v6.is_some()) };
    let lease = RawLease {
        node: Some(node.view.name.clone()),
        end: LeaseEnd::Never,
        ..RawLease::new(lease.subnet.to_string(), Vec::new())
    };
    (enabled == SubnetKey { v4, v6 }).then_some(StoredLease {
        lease,
        lifetime: Lifetime::Reservation,
        version: (),
    })
}

#[cfg(test)]
mod tests;
