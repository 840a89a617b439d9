//! Plain routes through the uplink to peers on its link, for host-gw and for vxlan with DirectRouting. With vxlan alone,
//! such routes of an earlier run are removed where they conflict with the overlay's.
//!
//! The kernel's routes say whether a peer is on the link. Each peer is looked up once, and again whenever routes change.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;

use anyhow::{Error, Result};
use ipnet::IpNet;

use crate::config::{NetworkConfig, SubnetRange};
use crate::dataplane::desired::{Changes, Ways};
use crate::dataplane::kernel::Kernel;
use crate::metrics::{METRICS, Repaired};
use crate::peer::Peer;
use crate::report::REPORT;
use crate::uplink::Uplink;
use watch::RouteWatch;

/// The direct routes of this node.
pub(super) struct Direct {
    uplink: u32,
    ranges: Vec<SubnetRange>,
    /// What the kernel holds, by what was read and written last: subnet and public IP.
    routes: BTreeMap<IpNet, IpAddr>,
    /// Whether these public IPs are on the link, by the kernel's routes.
    answers: BTreeMap<IpAddr, bool>,
    /// `None` where no direct routes are wanted.
    watch: Option<RouteWatch>,
}

impl Direct {
    /// Reads what an earlier run left on this uplink.
    pub(super) async fn start(
        kernel: &Kernel,
        uplink: &Uplink,
        network: &NetworkConfig,
        wanted: bool,
    ) -> Result<Self> {
        let ranges = network.ranges().collect();
        let (routes, answers) = (BTreeMap::new(), BTreeMap::new());
        let watch = wanted.then(|| RouteWatch::open(kernel)).transpose()?;
        let mut direct = Self { uplink: uplink.index, ranges, routes, answers, watch };
        direct.read(kernel).await?;
        Ok(direct)
    }

    /// Reads what the kernel holds, and forgets who is on the link.
    pub(super) async fn read(&mut self, kernel: &Kernel) -> Result<()> {
        self.answers.clear();
        let is_node_subnet = |subnet| self.ranges.iter().any(|range| range.can_hold(subnet));
        let before = mem::replace(&mut self.routes, kernel.direct_routes(self.uplink, is_node_subnet).await?);
        REPORT.repaired(Repaired::Route, Changes::between(&self.routes, &before).set.len());
        Ok(())
    }

    /// Waits until the way to a peer may have changed, or a direct route is gone. [`Self::read`] is to be called then.
    pub(super) async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => watch.changed(self.uplink, &self.answers, &self.routes).await,
            None => std::future::pending().await,
        }
    }

    /// Returns whether peers on the link are to have direct routes.
    pub(super) const fn is_wanted(&self) -> bool {
        self.watch.is_some()
    }

    /// Returns the way to each peer, and what failed. A peer whose look-up fails counts as not on the link.
    pub(super) async fn ways(&mut self, kernel: &Kernel, peers: &[Peer]) -> (Ways, Vec<Error>) {
        let (mut answers, mut errors) = (BTreeMap::new(), Vec::new());
        if !self.is_wanted() {
            return (Ways::tunnelled(peers), errors);
        }
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
        (Ways::to(peers, &on_link), errors)
    }

    /// Adds the routes that are missing.
    pub(super) async fn add(&mut self, kernel: &Kernel, ways: &Ways) -> Vec<Error> {
        let missing = Changes::between(&self.routes, &ways.direct).set;
        METRICS.count_changes("route", missing.len(), 0);
        self.routes.extend(missing.iter().copied());
        kernel.set_direct(self.uplink, &missing).await
    }

    /// Removes the routes that are not wanted. Where no direct routes are wanted, only those to subnets of peers.
    pub(super) async fn remove(&mut self, kernel: &Kernel, ways: &Ways) -> Vec<Error> {
        let mut surplus = Changes::between(&self.routes, &ways.direct).remove;
        if !self.is_wanted() && !surplus.is_empty() {
            let tunnelled: BTreeSet<_> = ways.tunnelled.iter().map(|peer| peer.subnet).collect();
            surplus.retain(|(subnet, _)| tunnelled.contains(subnet));
        }
        METRICS.count_changes("route", 0, surplus.len());
        for (subnet, _) in &surplus {
            self.routes.remove(subnet);
        }
        kernel.remove_direct(self.uplink, &surplus, &self.routes).await
    }
}
