//! What the backends aws-vpc, gce and ali-vpc share. The cloud's own routing carries pods' packets: each node has a route to its subnet in the
//! cloud's table, and nothing in its kernel.
//!
//! A task of its own compares the table with what is wanted (`plan`, pure) and writes the difference. Nothing on the node waits for
//! the cloud: pods are made, and packets to nodes with routes are carried, while the cloud's interface is away.

mod error;
mod http;
mod keeper;
mod plan;

use std::collections::BTreeSet;
#[cfg(any(feature = "aws-vpc", feature = "gce"))]
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use ipnet::IpNet;
use tokio::sync::watch;

pub(super) use self::error::{CloudError, ErrorKind};
#[cfg(feature = "aws-vpc")]
pub(super) use self::http::chain;
pub(super) use self::http::{Answer, Http, form};
use self::keeper::{Keeper, Terms};
pub(super) use self::plan::{Change, Owner, Route, Table};
use super::acceleration::Acceleration;
use super::alloc::Alloc;
use super::routed::Routed;
use super::{Backend, Setup};
use crate::config;
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::peer::Peer;
use crate::task::Task;
#[cfg(any(feature = "aws-vpc", feature = "gce"))]
use crate::uplink::Uplink;

/// A cloud whose routes carry pods' packets.
pub(super) trait Provider: Send + 'static {
    /// Reads the routes of this node's network, and prepares the node's interface to forward. The tables may be other ones each time.
    fn read(&mut self) -> impl Future<Output = Result<View, CloudError>> + Send;

    /// Makes a change in a table.
    fn carry_out(
        &mut self,
        table: &str,
        change: &Change,
    ) -> impl Future<Output = Result<(), CloudError>> + Send;

    /// Returns the command by which an operator removes a route.
    fn removal(&self, table: &str, route: &Route) -> String;
}

/// What a cloud has.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The tables that are to have a route to this node.
    pub(super) tables: Vec<Table>,
    /// What keeps packets from pods and is not for the agent to solve, with the remedy.
    pub(super) obstacles: Vec<String>,
}

/// The backend of a node in a cloud.
pub struct Cloud {
    /// The kernel's routes and devices have nothing of it.
    local: Alloc,
    kernel: Kernel,
    routed: Routed,
    name: &'static str,
    own: watch::Sender<Option<SubnetKey>>,
    leased: watch::Sender<Option<Arc<BTreeSet<IpNet>>>>,
    _keeper: Task,
}

impl Backend for Cloud {
    type Config = config::Backend;

    async fn start(setup: Setup<'_, config::Backend>) -> Result<Self> {
        let kernel = Kernel::new()?;
        let routed = Routed::start(&kernel, &setup).await?;
        let Setup { options, network, config, uplink, .. } = setup;
        let name = config.kind().name();
        let local = Alloc::new(uplink, config.kind());
        let (own, own_seen) = watch::channel(None);
        let (leased, leased_seen) = watch::channel(None);
        let terms = Terms {
            ranges: network.ranges().collect(),
            resync: options.cloud_resync,
            own: own_seen,
            leased: leased_seen,
        };
        let keeper = match config {
            #[cfg(feature = "aws-vpc")]
            config::Backend::AwsVpc(aws) => {
                Keeper::spawn(super::aws_vpc::AwsVpc::new(aws, addresses_of(uplink)), terms)
            }
            #[cfg(feature = "gce")]
            config::Backend::Gce => Keeper::spawn(super::gce::Gce::new(addresses_of(uplink)), terms),
            #[cfg(feature = "ali-vpc")]
            config::Backend::AliVpc(_) if network.ipv6.is_some() => {
                bail!(
                    "EnableIPv6 is true and the backend is ali-vpc, which carries IPv4 only; vxlan carries both"
                )
            }
            #[cfg(feature = "ali-vpc")]
            config::Backend::AliVpc(ali) => Keeper::spawn(super::ali_vpc::AliVpc::new(ali), terms),
            _ => bail!("this agent was built without the backend {name}"),
        };
        Ok(Self { local, kernel, routed, name, own, leased, _keeper: keeper })
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        self.local.attributes()
    }

    fn mtu(&self) -> u32 {
        self.local.mtu()
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn acceleration(&self) -> Option<&Acceleration> {
        Some(self.routed.acceleration())
    }

    fn acceleration_mut(&mut self) -> Option<(&mut Acceleration, &Kernel)> {
        Some((self.routed.acceleration_mut(), &self.kernel))
    }

    async fn set_subnet(&mut self, own: SubnetKey) -> Result<()> {
        self.own.send_replace(Some(own));
        self.routed.set_subnet(&self.kernel, own).await;
        Ok(())
    }

    async fn accelerate(&mut self) -> Result<()> {
        self.routed.accelerate(&self.kernel).await
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        self.leased.send_replace(Some(Arc::new(peers.iter().map(|peer| peer.subnet).collect())));
        // The cloud's router knows where pods are. The kernel's routes say which router that is.
        let all = peers.iter().map(|peer| (peer.subnet, peer.public_ip)).collect();
        self.routed.apply(&self.kernel, peers, &all).await
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let mut errors = self.routed.repair(&self.kernel).await;
        errors.extend(self.apply(peers).await);
        errors.extend(self.routed.follow_interfaces(&self.kernel).await);
        errors
    }

    async fn changed(&mut self) {
        self.routed.changed(&self.kernel).await;
    }

    async fn react(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        if self.routed.needs_peers() {
            self.resync(peers).await
        } else {
            self.routed.follow_interfaces(&self.kernel).await
        }
    }
}

/// Returns the node's addresses on its uplink.
#[cfg(any(feature = "aws-vpc", feature = "gce"))]
fn addresses_of(uplink: &Uplink) -> Vec<IpAddr> {
    let v4 = uplink.ipv4.iter().map(|address| address.local.into());
    v4.chain(uplink.ipv6.iter().map(|address| address.local.into())).collect()
}
