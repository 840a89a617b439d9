//! Follows the rules that look at each packet of pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{info, warn};

use crate::dataplane::kept::{KeptPrefix, kept};
use crate::netfilter::Rules;
use crate::netfilter::judge::pods::{Look, Pods, Selector, looks};
use crate::netfilter::rules::Table;

/// What was found last.
#[derive(Debug)]
pub(super) struct Looks {
    /// The networks of all pods.
    networks: Vec<IpNet>,
    /// What it was found in.
    read: Option<(Arc<[Table]>, BTreeSet<String>)>,
    found: Vec<Look>,
}

impl Looks {
    /// Knows nothing yet.
    pub(super) const fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, read: None, found: Vec::new() }
    }

    /// Returns the flows that these rules look at, if that may have changed. `interfaces`: the names of those by which packets of pods
    /// come in and leave.
    pub(super) fn follow(
        &mut self,
        rules: &Rules,
        interfaces: BTreeSet<String>,
    ) -> Option<BTreeSet<KeptPrefix>> {
        let Rules::Known(rules) = rules else { return None };
        let is_same =
            |(before, names): &(Arc<[Table]>, _)| Arc::ptr_eq(before, rules) && *names == interfaces;
        if self.read.as_ref().is_some_and(is_same) {
            return None;
        }
        let found = looks(rules, Pods { networks: &self.networks, interfaces: &interfaces });
        self.log(&found);
        self.found = found;
        self.read = Some((rules.clone(), interfaces));
        Some(kept(&self.found))
    }

    /// Logs each rule once when it comes, and once when it has gone.
    fn log(&self, now: &[Look]) {
        for Look { rule, packets } in now.iter().filter(|look| !self.found.contains(look)) {
            let packets: Vec<_> = packets.iter().take(3).map(Selector::to_string).collect();
            let packets = packets.join("; ");
            warn!(
                "a rule looks at each packet of pods ({rule}): these packets go through the host stack, slower: {packets}. With \
                 --flow-cache=true they take the shortcut, and the rule sees the first ones"
            );
        }
        for Look { rule, .. } in self.found.iter().filter(|look| !now.contains(look)) {
            info!("no longer so: a rule looks at each packet of pods ({rule})");
        }
    }
}
