//! Keeps the cloud's routes as they are wanted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::plan::{Plan, Wanted};
use super::{Change, CloudError, ErrorKind, Provider, Route, Table, View};
use crate::config::SubnetRange;
use crate::lease::SubnetKey;
use crate::metrics::{FailureKind, METRICS};
use crate::problem::{Pace, Problem};
use crate::random;
use crate::task::Task;

/// Pauses after failures. Each is longer by up to a half at random, so that nodes do not retry together.
const PACE: Pace = Pace { first: Duration::from_secs(2), longest: Duration::from_secs(300) };

/// What a keeper works by.
pub(super) struct Terms {
    /// The network's subnets.
    pub(super) ranges: Vec<SubnetRange>,
    /// Period of comparing the routes. Up to a quarter is left out at random.
    pub(super) resync: Duration,
    /// The node's own subnet, from the first lease on. A new one is seen to at once.
    pub(super) own: watch::Receiver<Option<SubnetKey>>,
    /// The other nodes' subnets, from the first snapshot on.
    pub(super) leased: watch::Receiver<Option<Arc<BTreeSet<IpNet>>>>,
}

/// Compares the routes of a cloud with what is wanted, and writes the difference.
pub(super) struct Keeper<P> {
    cloud: P,
    terms: Terms,
    /// The routes that nobody had a lease for at the last comparison: table and subnet.
    abandoned: BTreeSet<(String, IpNet)>,
    /// Requests that fail.
    failure: Problem,
    /// What an operator has to solve.
    obstacle: Problem,
}

/// What a comparison has found.
#[derive(Default)]
struct Found {
    obstacles: Vec<String>,
    failures: Vec<CloudError>,
}

impl<P: Provider> Keeper<P> {
    /// Starts it as a task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn spawn(cloud: P, terms: Terms) -> Task {
        let problem = |over: &str| Problem::new(FailureKind::Cloud, over, PACE);
        let keeper = Self {
            cloud,
            terms,
            abandoned: BTreeSet::new(),
            failure: problem("the cloud's routes are complete again"),
            obstacle: problem("nothing in the cloud's settings keeps packets from pods any more"),
        };
        Task::spawn(keeper.run())
    }

    /// Works until the backend is dropped.
    async fn run(mut self) {
        loop {
            let own = *self.terms.own.borrow_and_update();
            if let Some(own) = own {
                let pause = self.keep(own).await;
                tokio::select! {
                    changed = self.terms.own.changed() => if changed.is_err() { return },
                    () = sleep(pause) => {}
                }
            } else if self.terms.own.changed().await.is_err() {
                return;
            }
        }
    }

    /// Compares and writes once. Returns when to do so again.
    async fn keep(&mut self, own: SubnetKey) -> Duration {
        let failures = match self.cloud.read().await {
            Ok(view) => {
                let Found { obstacles, failures } = self.write(view, own).await;
                self.obstacle.observed(obstacles);
                failures
            }
            Err(error) => vec![error],
        };
        if failures.is_empty() {
            self.failure.solved();
            return self.terms.resync - share(self.terms.resync / 4);
        }
        let wish = failures.iter().filter_map(CloudError::throttled).max().unwrap_or_default();
        self.failure.failed(failures.iter().map(ToString::to_string));
        let next = self.failure.next_try().unwrap_or_else(Instant::now);
        let pause = next.saturating_duration_since(Instant::now()).max(wish);
        pause + share(pause / 2)
    }

    /// Makes the changes in all tables.
    async fn write(&mut self, view: View, own: SubnetKey) -> Found {
        let plans = self.plans(&view.tables, own);
        let mut found = Found { obstacles: view.obstacles, ..Found::default() };
        for (table, plan) in &plans {
            found.obstacles.extend(plan.conflicts.iter().map(|route| self.conflict(table, route)));
        }
        found.failures = self.carry_out(&plans).await;
        let of_table = |(table, plan): &(&Table, Plan)| {
            let id = table.id.clone();
            plan.abandoned.iter().map(move |subnet| (id.clone(), *subnet)).collect::<Vec<_>>()
        };
        let mut abandoned: BTreeSet<_> = plans.iter().flat_map(of_table).collect();
        // The next look comes soon then, and is not to be the second one.
        if !found.failures.is_empty() {
            abandoned.retain(|route| self.abandoned.contains(route));
        }
        self.abandoned = abandoned;
        found
    }

    fn plans<'a>(&self, tables: &'a [Table], own: SubnetKey) -> Vec<(&'a Table, Plan)> {
        let own: Vec<_> = own.nets().collect();
        let leased = self.terms.leased.borrow().clone();
        let wanted = Wanted {
            own: &own,
            leased: leased.as_deref(),
            ranges: &self.terms.ranges,
            abandoned: &self.abandoned,
        };
        tables.iter().map(|table| (table, Plan::new(table, &wanted))).collect()
    }

    /// Makes the changes. A request that is one too many ends it. Returns what failed.
    async fn carry_out(&mut self, plans: &[(&Table, Plan)]) -> Vec<CloudError> {
        let mut failures = Vec::new();
        for (Table { id, .. }, Plan { changes, .. }) in plans {
            for change in changes {
                match self.cloud.carry_out(id, change).await {
                    Ok(()) => record(id, change),
                    // Another node was faster.
                    Err(error)
                        if error.kind == ErrorKind::NotFound && matches!(change, Change::Remove(_)) => {}
                    Err(error) => {
                        let is_throttled = error.throttled().is_some();
                        failures.push(error.when(describe(id, change)));
                        if is_throttled {
                            return failures;
                        }
                    }
                }
            }
        }
        failures
    }

    fn conflict(&self, table: &Table, route: &Route) -> String {
        let Route { subnet, next_hop, .. } = route;
        format!(
            "pods of this node may not be reached: the route to its subnet {subnet} in {} leads to {next_hop} and is not flannel's. \
             If nobody needs it: {}",
            table.id,
            self.cloud.removal(&table.id, route)
        )
    }
}

/// Returns a random share of a time.
fn share(time: Duration) -> Duration {
    let permille = u32::try_from(random::number().unwrap_or_default() % 1001).unwrap_or_default();
    time * permille / 1000
}

fn record(table: &str, change: &Change) {
    match change {
        Change::Create(subnet) => {
            METRICS.count_changes("cloud-route", 1, 0);
            info!(%subnet, table, "the cloud has a route to this node");
        }
        Change::Replace(Route { subnet, next_hop, .. }) => {
            METRICS.count_changes("cloud-route", 1, 0);
            info!(%subnet, table, before = next_hop, "the cloud's route leads to this node");
        }
        Change::Remove(Route { subnet, next_hop, .. }) => {
            METRICS.count_changes("cloud-route", 0, 1);
            info!(%subnet, table, before = next_hop, "a route that nobody uses is removed from the cloud");
        }
    }
}

fn describe(table: &str, change: &Change) -> String {
    match change {
        Change::Create(subnet) => format!("making the route to this node's subnet {subnet} in {table}"),
        Change::Replace(Route { subnet, .. }) => {
            format!("leading the route to {subnet} in {table} to this node")
        }
        Change::Remove(Route { subnet, .. }) => format!("removing the unused route to {subnet} from {table}"),
    }
}

#[cfg(test)]
mod tests;
