//! Follows what the host does with the packets that it sends and receives itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use crate::dataplane::kernel::Kernel;
use crate::dataplane::obstacle::{Obstacle, Outer};
use crate::netfilter::judge::Fate;
use crate::netfilter::{RuleWatch, Rules};
use crate::netlink::xfrm::PolicyWatch;
use crate::peer::Peer;

/// So many peers are asked for, of all of them, when rules route by marks.
const SAMPLE: usize = 16;

/// Period of looking for what is not reported: routes that rules lead to.
const CHECK: Duration = Duration::from_secs(5);

/// Follows the rules for outer packets.
pub(super) struct UnderlayWatch {
    /// The outer packets of the vxlan devices, and the addresses that they go to.
    outer: Vec<Outer>,
    peers: BTreeSet<IpAddr>,
    policies: PolicyWatch,
    filters: RuleWatch,
    /// What was found last, and when to look again.
    found: Vec<Obstacle>,
    next: Instant,
}

impl UnderlayWatch {
    /// Begins to follow the rules for these outer packets.
    pub(super) fn new(outer: Vec<Outer>) -> Self {
        Self {
            outer,
            peers: BTreeSet::new(),
            policies: PolicyWatch::default(),
            filters: RuleWatch::start(),
            found: Vec::new(),
            next: Instant::now(),
        }
    }

    /// Sets the other nodes.
    pub(super) fn set_peers(&mut self, peers: &[Peer]) {
        let before = std::mem::take(&mut self.peers);
        self.add_peers(peers);
        if self.peers != before {
            self.next = Instant::now();
        }
    }

    /// Adds other nodes.
    pub(super) fn add_peers(&mut self, joined: &[Peer]) {
        self.peers.extend(joined.iter().map(|peer| peer.public_ip));
        self.next = Instant::now();
    }

    /// Returns the public addresses of the other nodes.
    pub(super) const fn peers(&self) -> &BTreeSet<IpAddr> {
        &self.peers
    }

    /// Waits for a change of IPsec policies or packet filters. May be dropped and called again.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = self.policies.changed() => {}
            () = self.filters.changed() => {}
        }
    }

    /// Returns whether something has changed that is not reported. Looks for it now and then.
    pub(super) async fn has_silently_changed(&mut self, kernel: &Kernel) -> bool {
        if Instant::now() < self.next {
            return false;
        }
        self.next = Instant::now() + CHECK;
        // IPsec may have been loaded in the meantime.
        let subscribed = self.policies.subscribe();
        subscribed.is_ok() && self.find(kernel).await.is_ok_and(|now| now != self.found)
    }

    /// Looks again. What was found last holds on after a failure.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn look(&mut self, kernel: &Kernel) -> Result<()> {
        self.next = Instant::now() + CHECK;
        self.policies.subscribe()?;
        self.found = self.find(kernel).await.context("reading the rules for outer packets")?;
        Ok(())
    }

    /// Returns the rules of the host's packet filters.
    pub(super) fn rules(&self) -> Rules {
        self.filters.rules()
    }

    /// Returns why outer packets are left to the kernel.
    pub(super) fn obstacles(&self) -> &[Obstacle] {
        &self.found
    }

    async fn find(&self, kernel: &Kernel) -> Result<Vec<Obstacle>> {
        let rules = self.filters.rules();
        let mut obstacles = Vec::new();
        for outer in &self.outer {
            let fate = match &rules {
                Rules::Pending => Some(Fate::default()),
                Rules::Unknown => None,
                Rules::Known(rules) => outer.fate(rules, &self.peers),
            };
            let marks = fate.as_ref().filter(|fate| fate.any_mark.is_none()).map(|fate| &fate.marks);
            let reached = self.peers.iter().copied().filter(|peer| peer.is_ipv4() == outer.local.is_ipv4());
            let reached: Vec<_> = reached.collect();
            let sample: Vec<_> = reached.iter().copied().step_by(reached.len() / SAMPLE + 1).collect();
            let underlay = kernel.underlay(outer, &sample, marks).await?;
            obstacles.extend(outer.obstacles(&underlay, fate.as_ref(), &self.peers));
        }
        Ok(obstacles)
    }
}
