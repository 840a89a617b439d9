//! The interface of a datastore.

use std::fmt;
use std::future::{pending, ready};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::entry::{LeaseAttrs, RawLease};
use super::key::SubnetKey;
use super::notice::Notice;
use super::policy::{Loss, Traces};
use super::public_ips::PublicIps;
use crate::config::NetworkConfig;
use crate::mac::Mac;

/// A change that a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseUpdate {
    /// All entries: at the start, and after every gap in the events. An entry that is not in it is gone.
    Snapshot(Vec<RawLease>),
    /// An entry is new or has changed.
    Put(RawLease),
    /// The entry with this key is gone.
    Delete(String),
}

/// The lease that this node holds.
#[derive(Clone, Debug)]
pub struct OwnLease {
    /// Our pod subnet.
    pub subnet: SubnetKey,
    /// The value that we wrote.
    pub attrs: LeaseAttrs,
    /// The end of the lease unless it is renewed. A reservation has none and is never renewed.
    pub term: Option<Instant>,
    /// The VTEP MACs, other than ours, that its entry had before we took it.
    pub replaced: Vec<Mac>,
}

impl fmt::Display for OwnLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.subnet.fmt(f)
    }
}

/// What the datastore has of this node before the node takes a subnet.
#[derive(Clone, Debug, Default)]
pub struct KnownNode {
    /// What other nodes know of it from an earlier run.
    pub attrs: Option<LeaseAttrs>,
    /// Addresses that an administrator has given it there. They take precedence over flags.
    pub public_ips: PublicIps,
}

/// A network config for messages that ask for one.
pub(super) const EXAMPLE_CONFIG: &str = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}"#;

/// Parses the network config of a datastore. `place` is where it stands.
pub(super) fn parse_config(text: &str, place: &str) -> anyhow::Result<NetworkConfig> {
    NetworkConfig::parse(text)
        .with_context(|| format!("the network config in {place} cannot be used; correct it there"))
}

/// A datastore of leases.
pub trait SubnetManager {
    /// Reads the network configuration.
    ///
    /// # Errors
    /// The datastore cannot be reached, or has no configuration, or a wrong one. The message names key and value.
    fn network_config(&self) -> impl Future<Output = anyhow::Result<NetworkConfig>> + Send;

    /// Waits until the network configuration may be another than when it was last read. By default it never is.
    fn config_changed(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// Reads what is known of this node, so that it keeps its MACs and takes the addresses that it was given. etcd and
    /// files have nothing of the kind.
    ///
    /// # Errors
    /// The datastore cannot be reached.
    fn known_node(&self) -> impl Future<Output = anyhow::Result<KnownNode>> + Send {
        ready(Ok(KnownNode::default()))
    }

    /// Takes a subnet. Where nodes choose their subnets, that is the lease that is ours, or the subnet of our last
    /// run if it fits, or a free one. Otherwise it is the subnet that the datastore has given to this node.
    ///
    /// # Errors
    /// The datastore cannot be reached, or has no subnet for us.
    fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        traces: &Traces,
    ) -> impl Future<Output = anyhow::Result<OwnLease>> + Send;

    /// Keeps our subnet: prolongs its lease and writes `attrs` where the datastore has something else.
    ///
    /// # Errors
    /// The datastore cannot be reached.
    fn renew(
        &self,
        lease: &OwnLease,
        attrs: &LeaseAttrs,
    ) -> impl Future<Output = anyhow::Result<Result<OwnLease, Loss>>> + Send;

    /// Reads all entries.
    ///
    /// # Errors
    /// The datastore cannot be reached.
    fn leases(&self) -> impl Future<Output = anyhow::Result<Vec<RawLease>>> + Send;

    /// Sends a snapshot, then events, and a snapshot again after every gap, until `updates` is closed. Logs outages
    /// and retries after them.
    fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) -> impl Future<Output = ()> + Send;

    /// Says that packets can flow from now on. In Kubernetes it clears the Node's condition NetworkUnavailable. Retries
    /// until this is done; may be called again.
    fn node_is_up(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// Passes a notice to the operator, if the datastore has a place for it. Gives up after a failure.
    fn report(&self, notice: Notice) -> impl Future<Output = ()> + Send {
        drop(notice);
        ready(())
    }
}
