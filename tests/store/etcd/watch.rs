//! A watch delivers the current leases in the end, even if etcd's history is compacted, or etcd hangs or restarts.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::lease::{LeaseUpdate, SubnetManager as _};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Etcd, TestResult};
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::managers::{V4, acquire, manager, run, v4_value};

const SOON: Duration = Duration::from_secs(20);
/// More changes than etcd keeps for a watch that does not read them (1024). Their size soon fills the connection.
const MANY: usize = 1500;
const BIG: usize = 10_000;
/// The first request of a watch and the second one are some milliseconds apart. In so many rounds, others change something a step later each
/// time.
const ROUNDS: u32 = 60;
const STEP: Duration = Duration::from_micros(150);

/// The leases according to the received updates.
#[derive(Default)]
struct ReceivedLeases {
    leases: BTreeMap<String, Vec<u8>>,
    snapshots: usize,
}

impl ReceivedLeases {
    fn apply(&mut self, update: LeaseUpdate) {
        match update {
            LeaseUpdate::Snapshot(leases) => {
                self.leases = leases.into_iter().map(|lease| (lease.key, lease.value)).collect();
                self.snapshots += 1;
            }
            LeaseUpdate::Put(lease) => drop(self.leases.insert(lease.key, lease.value)),
            LeaseUpdate::Delete(key) => drop(self.leases.remove(&key)),
        }
    }

    /// Receives updates until they contain this key.
    async fn until(&mut self, key: &str, updates: &mut Receiver<LeaseUpdate>) -> Result<()> {
        while !self.leases.contains_key(key) {
            let update = timeout(SOON, updates.recv()).await?;
            self.apply(update.ok_or_else(|| anyhow::anyhow!("the watch has ended"))?);
        }
        Ok(())
    }

    fn ensure_is(&self, etcd: &Etcd) -> Result<()> {
        let name = |key: String| key.trim_start_matches(&format!("{PREFIX}/subnets/")).to_owned();
        let current = etcd.subnets()?.into_iter().map(|entry| (name(entry.key), entry.value.into_bytes()));
        let current: BTreeMap<_, _> = current.collect();
        let (received, expected) =
            (self.leases.keys().collect::<Vec<_>>(), current.keys().collect::<Vec<_>>());
        ensure!(received == expected, "received {received:?}, etcd has {expected:?}");
        ensure!(self.leases == current, "a value differs");
        Ok(())
    }
}

fn put(etcd: &Etcd, name: &str) -> Result<()> {
    etcd.put(&format!("{PREFIX}/subnets/{name}"), &v4_value(9))
}

/// Runs `test` on etcd while a manager watches it, then checks the received leases.
fn watching(
    etcd: &mut Etcd,
    test: impl AsyncFnOnce(&mut Etcd, &mut ReceivedLeases, &mut Receiver<LeaseUpdate>) -> Result<()>,
) -> Result<()> {
    let manager = manager(etcd);
    // A channel for one update: the others wait in etcd until it is received.
    let (sender, mut updates) = mpsc::channel(1);
    let mut received = ReceivedLeases::default();
    run(async {
        let test = async {
            put(etcd, "first")?;
            received.until("first", &mut updates).await?;
            test(etcd, &mut received, &mut updates).await?;
            put(etcd, "last")?;
            received.until("last", &mut updates).await?;
            received.ensure_is(etcd)
        };
        tokio::select! {
            () = manager.watch(sender) => anyhow::bail!("the watch has ended"),
            done = test => done,
        }
    })
}

#[test]
fn compacted_history_is_replaced_by_a_snapshot() -> TestResult {
    let mut etcd = Etcd::start()?;
    let mut snapshots = 0;
    watching(&mut etcd, async |etcd, received, updates| {
        let big = "x".repeat(BIG);
        (0..MANY).try_for_each(|n| etcd.put(&format!("{PREFIX}/subnets/n{n:04}"), &big))?;
        etcd.kv().delete_prefix(&format!("{PREFIX}/subnets/n1"))?;
        etcd.compact()?;
        put(etcd, "compacted")?;
        received.until("compacted", updates).await?;
        snapshots = received.snapshots;
        Ok(())
    })?;
    assert_eq!(snapshots, 2, "the watch missed nothing, so the test was without effect");
    Ok(())
}

#[test]
fn changes_around_a_restart_of_etcd_are_seen() -> TestResult {
    let mut etcd = Etcd::start()?;
    watching(&mut etcd, async |etcd, received, updates| {
        put(etcd, "before")?;
        received.until("before", updates).await?;
        etcd.restart()?;
        etcd.delete(&format!("{PREFIX}/subnets/before"))?;
        put(etcd, "after")?;
        received.until("after", updates).await
    })?;
    Ok(())
}

#[test]
fn a_renewal_fails_while_etcd_hangs_and_the_next_succeeds() -> TestResult {
    let mut etcd = Etcd::start()?;
    let lease = acquire(&etcd, V4, &v4_value(1), None)?;
    let manager = manager(&etcd);
    run(async {
        assert!(manager.renew(&lease, &lease.attrs).await?.is_ok());
        etcd.stop()?;
        let refused = format!("{:#}", manager.renew(&lease, &lease.attrs).await.unwrap_err());
        for said in [&*etcd.endpoint(), "no answer within 5 s", &lease.to_string()] {
            assert!(refused.contains(said), "no {said:?} in {refused}");
        }
        etcd.cont()?;
        assert!(manager.renew(&lease, &lease.attrs).await?.is_ok());
        Ok(())
    })?;
    Ok(())
}

/// etcd before 3.4.36 and 3.5.18 keeps a deletion from a watch that begins with the compacted revision.
#[test]
fn a_lease_that_is_deleted_and_compacted_while_a_watch_begins_is_gone() -> TestResult {
    let etcd = Etcd::start()?;
    let key = |name: &str| format!("{PREFIX}/subnets/{name}");
    for round in 0..ROUNDS {
        etcd.kv().delete_prefix(&key(""))?;
        put(&etcd, "late")?;
        let (sender, mut updates) = mpsc::channel(1);
        let (manager, mut received) = (manager(&etcd), ReceivedLeases::default());
        let others = || {
            thread::sleep(STEP * round);
            etcd.delete(&key("late"))?;
            etcd.compact()?;
            put(&etcd, "last")
        };
        let follow = async {
            tokio::select! {
                () = manager.watch(sender) => anyhow::bail!("the watch has ended"),
                seen = received.until("last", &mut updates) => seen,
            }
        };
        thread::scope(|scope| {
            let others = scope.spawn(others);
            run(follow)?;
            others.join().map_err(|_| anyhow::anyhow!("a panic"))?
        })?;
        received.ensure_is(&etcd).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
