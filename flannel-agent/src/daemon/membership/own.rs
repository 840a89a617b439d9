//! The node's own lease: its states, each with the request to the datastore that ends it.

use std::future::pending;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use crate::config::NetworkConfig;
use crate::daemon::renewal::{due, renewed};
use crate::daemon::retry::until_it_works;
use crate::lease::{LeaseAttrs, Loss, OwnLease, SubnetKey, SubnetManager, Traces};
use crate::mac::Mac;

/// A state of the own lease.
pub(super) enum Own<'a> {
    /// There is none: one is being taken.
    Taking(LocalBoxFuture<'a, OwnLease>),
    /// The node has moved: its new address is being written.
    Readdressing(SubnetKey, Renewal<'a>),
    /// It is held, and renewed before its end.
    Held(OwnLease, Renewal<'a>),
    /// It is held, and its value is about to be written again.
    Repairing(OwnLease, Renewal<'a>),
    /// Another node with this node's address was first, and has this MAC. The lease is left to it.
    GivenWay(OwnLease, Mac),
}

type Renewal<'a> = LocalBoxFuture<'a, Result<OwnLease, Loss>>;

/// The end of a state.
pub(super) enum End {
    Taken(OwnLease),
    Readdressed(OwnLease),
    Renewed(OwnLease),
    Lost(SubnetKey, Loss),
}

impl<'a> Own<'a> {
    pub(super) fn take(
        store: &'a impl SubnetManager,
        network: &'a NetworkConfig,
        attrs: LeaseAttrs,
        traces: Traces,
    ) -> Self {
        let request = async move {
            until_it_works("taking a subnet", || store.acquire(network, &attrs, &traces)).await
        };
        Self::Taking(request.boxed_local())
    }

    pub(super) fn readdress(store: &'a impl SubnetManager, lease: OwnLease, attrs: LeaseAttrs) -> Self {
        let subnet = lease.subnet;
        let request = async move {
            let what = "writing the node's new address to its lease";
            until_it_works(what, || store.renew(&lease, &attrs)).await
        };
        Self::Readdressing(subnet, request.boxed_local())
    }

    pub(super) fn hold(store: &'a impl SubnetManager, lease: OwnLease, margin: Duration) -> Self {
        let due = due(&lease, margin);
        Self::Held(lease.clone(), renewed(store, lease, due).boxed_local())
    }

    /// Writes the lease's value again, after a pause.
    pub(super) fn repair(store: &'a impl SubnetManager, lease: OwnLease, pause: Duration) -> Self {
        let due = Some(Instant::now() + pause);
        Self::Repairing(lease.clone(), renewed(store, lease, due).boxed_local())
    }

    /// Waits for the end of the state. It may be dropped and called again.
    pub(super) async fn ended(&mut self) -> End {
        match self {
            Self::Taking(request) => End::Taken(request.await),
            Self::Readdressing(subnet, request) => match request.await {
                Ok(lease) => End::Readdressed(lease),
                Err(loss) => End::Lost(*subnet, loss),
            },
            Self::Held(lease, request) | Self::Repairing(lease, request) => match request.await {
                Ok(lease) => End::Renewed(lease),
                Err(loss) => End::Lost(lease.subnet, loss),
            },
            Self::GivenWay(..) => pending().await,
        }
    }
}
