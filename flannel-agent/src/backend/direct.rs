//! Plain routes through the uplink to peers on its link: host-gw's all, and what DirectRouting adds to vxlan.
//! Where neither is wanted, what an earlier run left in the way of the overlay's routes.
//!
//! Who is on the link is asked of the kernel, peer by peer, once and whenever its routes change.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Error, Result};
use ipnet::IpNet;

use crate::config::{NetworkConfig, SubnetRange};
use crate::dataplane::desired::{Changes, Ways};
use crate::dataplane::kernel::Kernel;
use crate::peer::Peer;
use crate::uplink::Uplink;
use watch::RouteWatch;

/// The direct routes of this node.
pub(super) struct Direct {
    uplink: u32,
    ranges: Vec<SubnetRange>,
    /// What the kernel holds, as far as we know: subnet and public IP.
    routes: BTreeMap<IpNet, IpAddr>,
    /// Whether these public IPs are on the link, as the kernel has said.
    answers: BTreeMap<IpAddr, bool>,
    /// `None` where no direct routes are wanted.
    watch: Option<RouteWatch>,
    stale: bool,
}

impl Direct {
    /// Finds what an earlier run left on this uplink.
    pub(super) async fn start(
        kernel: &Kernel,
        uplink: &Uplink,
        network: &NetworkConfig,
        wanted: bool,
    ) -> Result<Self> {
        let ranges = network.ranges().collect();
        let (routes, answers) = (BTreeMap::new(), BTreeMap::new());
        let watch = wanted.then(RouteWatch::open).transpose()?;
        let mut direct = Self { uplink: uplink.index, ranges, routes, answers, watch, stale: false };
        direct.read(kernel).await?;
        Ok(direct)
    }

    /// Reads what the kernel really holds, and forgets what it said.
    pub(super) async fn read(&mut self, kernel: &Kernel) -> Result<()> {
        self.stale = false;
        self.answers.clear();
        let is_nodes = |subnet| self.ranges.iter().any(|range| range.can_hold(subnet));
        self.routes = kernel.direct_routes(self.uplink, is_nodes).await?;
        Ok(())
    }

    /// Waits until the way to a peer may be another, or a route of ours is gone.
    pub(super) async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => watch.changed(self.uplink, &self.answers, &self.routes).await,
            None => std::future::pending().await,
        }
        self.stale = true;
    }

    /// Whether peers on the link are to have direct routes.
    pub(super) const fn is_wanted(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether [`Self::read`] would find something new.
    pub(super) const fn is_stale(&self) -> bool {
        self.stale
    }

    /// The way to each peer. One of which the kernel cannot be asked counts as not on the link.
    pub(super) async fn ways(&mut self, kernel: &Kernel, peers: &[Peer], errors: &mut Vec<Error>) -> Ways {
        if !self.is_wanted() {
            return Ways::tunnelled(peers);
        }
        let mut answers = BTreeMap::new();
        for peer in peers {
            let answer = match self.answers.get(&peer.public_ip) {
                Some(known) => Ok(*known),
                None => kernel.is_on_link(self.uplink, peer.public_ip).await,
            };
            match answer {
                Ok(answer) => drop(answers.insert(peer.public_ip, answer)),
                Err(error) => errors.push(error),
            }
        }
        self.answers = answers;
        let on_link: BTreeSet<_> = self.answers.iter().filter(|(_, yes)| **yes).map(|(ip, _)| *ip).collect();
        Ways::to(peers, &on_link)
    }

    /// Adds what is missing.
    pub(super) async fn add(&mut self, kernel: &Kernel, ways: &Ways) -> Vec<Error> {
        let missing = Changes::between(&self.routes, &ways.direct).set;
        self.routes.extend(missing.iter().copied());
        kernel.set_direct(self.uplink, &missing).await
    }

    /// Removes what is too much; where no direct routes are wanted, only those to subnets of peers.
    pub(super) async fn remove(&mut self, kernel: &Kernel, ways: &Ways) -> Vec<Error> {
        let mut surplus = Changes::between(&self.routes, &ways.direct).remove;
        if !self.is_wanted() && !surplus.is_empty() {
            let tunnelled: BTreeSet<_> = ways.tunnelled.iter().map(|peer| peer.subnet).collect();
            surplus.retain(|(subnet, _)| tunnelled.contains(subnet));
        }
        for (subnet, _) in &surplus {
            self.routes.remove(subnet);
        }
        kernel.remove_direct(self.uplink, &surplus, &self.routes).await
    }
}
