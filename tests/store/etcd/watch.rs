//! What a watch delivers when etcd's history is gone, etcd hangs, or starts again: in the end, what is there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_agent::lease::{LeaseUpdate, SubnetManager as _};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Etcd, TestResult};
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::managers::{V4, acquire, manager, run, v4_value};

const SOON: Duration = Duration::from_secs(20);
/// More changes than etcd keeps for a watch that does not read them (1024), of a size that soon fills the connection.
const MANY: usize = 1500;
const BIG: usize = 10_000;

/// The leases as the updates tell them.
#[derive(Default)]
struct Told {
    leases: BTreeMap<String, Vec<u8>>,
    snapshots: usize,
}

impl Told {
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

    /// Listens until this key is there.
    async fn until(&mut self, key: &str, updates: &mut Receiver<LeaseUpdate>) -> Result<()> {
        while !self.leases.contains_key(key) {
            let update = timeout(SOON, updates.recv()).await?;
            self.apply(update.ok_or_else(|| anyhow::anyhow!("the watch has ended"))?);
        }
        Ok(())
    }

    fn ensure_is(&self, etcd: &Etcd) -> Result<()> {
        let there = etcd.subnets()?.into_iter();
        let name = |key: String| key.trim_start_matches(&format!("{PREFIX}/subnets/")).to_owned();
        let there: BTreeMap<_, _> = there.map(|entry| (name(entry.key), entry.value.into_bytes())).collect();
        let (told, there) =
            (self.leases.keys().collect::<Vec<_>>(), (there.keys().collect::<Vec<_>>(), &there));
        ensure!(told == there.0, "told {told:?}, there is {:?}", there.0);
        ensure!(&self.leases == there.1, "a value differs");
        Ok(())
    }
}

fn put(etcd: &Etcd, name: &str) -> Result<()> {
    etcd.put(&format!("{PREFIX}/subnets/{name}"), &v4_value(9))
}

/// Watches while `test` works on etcd.
fn watching(
    etcd: &mut Etcd,
    test: impl AsyncFnOnce(&mut Etcd, &mut Told, &mut Receiver<LeaseUpdate>) -> Result<()>,
) -> Result<()> {
    let manager = manager(etcd);
    // One update at a time: what is not received waits in etcd.
    let (sender, mut updates) = mpsc::channel(1);
    let mut told = Told::default();
    run(async {
        let test = async {
            put(etcd, "first")?;
            told.until("first", &mut updates).await?;
            test(etcd, &mut told, &mut updates).await?;
            put(etcd, "last")?;
            told.until("last", &mut updates).await?;
            told.ensure_is(etcd)
        };
        tokio::select! {
            () = manager.watch(sender) => anyhow::bail!("the watch has ended"),
            done = test => done,
        }
    })
}

#[test]
fn history_that_is_compacted_before_it_was_read_is_a_gap() -> TestResult {
    let mut etcd = Etcd::start()?;
    let mut snapshots = 0;
    watching(&mut etcd, async |etcd, told, updates| {
        let big = "x".repeat(BIG);
        (0..MANY).try_for_each(|n| etcd.put(&format!("{PREFIX}/subnets/n{n:04}"), &big))?;
        etcd.kv().delete_prefix(&format!("{PREFIX}/subnets/n1"))?;
        etcd.compact()?;
        put(etcd, "compacted")?;
        told.until("compacted", updates).await?;
        snapshots = told.snapshots;
        Ok(())
    })?;
    assert_eq!(snapshots, 2, "nothing was missed, so that this test shows nothing");
    Ok(())
}

#[test]
fn an_etcd_that_starts_again_is_a_gap() -> TestResult {
    let mut etcd = Etcd::start()?;
    watching(&mut etcd, async |etcd, told, updates| {
        put(etcd, "before")?;
        told.until("before", updates).await?;
        etcd.restart()?;
        etcd.delete(&format!("{PREFIX}/subnets/before"))?;
        put(etcd, "after")?;
        told.until("after", updates).await
    })?;
    Ok(())
}

#[test]
fn an_etcd_that_hangs_refuses_a_renewal_and_serves_the_next() -> TestResult {
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
