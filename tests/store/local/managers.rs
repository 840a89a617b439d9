//! Managers without agents, on a folder: many at once, one after the other, and what they report.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use flannel_agent::lease::local::LocalManager;
use flannel_agent::lease::{LeaseAttrs, LeaseUpdate, OwnLease, SubnetManager as _, Traces};
use flannel_tests::wait::throughout;
use flannel_tests::{Cluster, Datastore as _, LocalStore, TestResult};
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::{SOON, mode};
use crate::inspect::Peer;

/// Subnets 10.5.1.0 to 10.5.20.0.
const TWENTY: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.20.0","Backend":{"Type":"vxlan"}}"#;
const NODES: u8 = 20;
const HOUR: Duration = Duration::from_secs(3600);
/// Several times as long as a manager needs to report a change.
const QUIET: Duration = Duration::from_millis(500);

/// Returns a folder and the cluster that keeps it.
fn folder() -> Result<(LocalStore, Cluster)> {
    let cluster = Cluster::segment(1)?;
    let store = cluster.local_store("leases")?;
    store.configure(TWENTY)?;
    Ok((store, cluster))
}

fn manager(store: &LocalStore) -> LocalManager {
    LocalManager::new(store.dir().to_owned())
}

fn attrs(node: u8) -> Result<LeaseAttrs> {
    Ok(serde_json::from_str(&Peer::fictional(node).value())?)
}

fn run<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// Takes a subnet as an agent on this node does at its start.
fn acquire(store: &LocalStore, node: u8) -> Result<OwnLease> {
    run(async {
        let manager = manager(store);
        manager.acquire(&manager.network_config().await?, &attrs(node)?, &Traces::default()).await
    })?
}

fn age(store: &LocalStore, name: &str, age: Duration) -> Result<()> {
    store.set_time(name, SystemTime::now() - age)
}

#[test]
fn twenty_at_once_get_the_twenty_subnets_and_one_more_gets_none() -> TestResult {
    let (store, _cluster) = folder()?;
    let subnets = thread::scope(|scope| {
        let store = &store;
        let threads: Vec<_> = (0..NODES).map(|node| scope.spawn(move || acquire(store, node))).collect();
        let leases = threads.into_iter().map(|thread| thread.join().unwrap());
        leases.map(|lease| Ok(lease?.subnet.to_string())).collect::<Result<BTreeSet<_>>>()
    })?;
    let expected: BTreeSet<_> = (1..=NODES).map(|number| format!("10.5.{number}.0-24")).collect();
    assert_eq!(subnets, expected);
    assert_eq!(store.leases()?.into_keys().collect::<BTreeSet<_>>(), expected, "the files");
    let refused = acquire(&store, NODES).unwrap_err().to_string();
    assert!(refused.contains("no subnet is free: there are 20 leases"), "{refused}");
    Ok(())
}

#[test]
fn a_manager_waits_for_the_lock() -> TestResult {
    let (store, _cluster) = folder()?;
    fs::create_dir(store.subnets())?;
    let lock = File::create(store.dir().join("lock"))?;
    lock.lock()?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| acquire(&store, 1));
        let untouched = throughout("nothing is written", QUIET, || {
            ensure!(!waiting.is_finished(), "the manager did not wait");
            ensure!(store.leases()?.is_empty(), "{:?}", store.leases()?);
            Ok(())
        });
        // Before any failure is returned: otherwise the thread would wait for ever.
        lock.unlock()?;
        waiting.join().unwrap()?;
        untouched
    })?;
    assert_eq!(store.leases()?.len(), 1);
    Ok(())
}

#[test]
fn an_ended_lease_is_replaced_and_an_old_reservation_is_not() -> TestResult {
    let (store, _cluster) = folder()?;
    let leases = (0..NODES).map(|node| acquire(&store, node)).collect::<Result<Vec<_>>>()?;
    let [ended, reserved, young] = [0, 1, 2].map(|node| leases[node].subnet.to_string());
    age(&store, &ended, 24 * HOUR)?;
    age(&store, &reserved, 1000 * HOUR)?;
    fs::set_permissions(store.file(&reserved), Permissions::from_mode(0o644))?;
    age(&store, &young, 23 * HOUR)?;
    assert_eq!(acquire(&store, 100)?.subnet.to_string(), ended);
    assert!(acquire(&store, 101).is_err(), "a subnet in use was taken");
    Ok(())
}

#[test]
fn an_ended_lease_is_removed_by_the_next_node_that_takes_a_subnet_unless_it_holds_it() -> TestResult {
    let (store, _cluster) = folder()?;
    let [one, other] = [1, 2].map(|node| acquire(&store, node));
    let (one, other) = (one?.subnet.to_string(), other?.subnet.to_string());
    for name in [&one, &other] {
        age(&store, name, 25 * HOUR)?;
    }
    assert_eq!(acquire(&store, 1)?.subnet.to_string(), one, "the node still holds it");
    assert_eq!(
        store.leases()?.into_keys().collect::<Vec<_>>(),
        [one],
        "the lease of the other node is to be removed"
    );
    Ok(())
}

#[test]
fn renewal_sets_the_time_and_refuses_the_lease_of_another_node() -> TestResult {
    let (store, _cluster) = folder()?;
    let lease = acquire(&store, 1)?;
    let name = lease.subnet.to_string();
    let renew = || run(async { manager(&store).renew(&lease, &lease.attrs).await })?;
    let time = || fs::metadata(store.file(&name)).and_then(|metadata| metadata.modified());

    age(&store, &name, 23 * HOUR)?;
    assert!(renew()?.is_ok_and(|lease| lease.term.is_some()));
    assert!(time()?.elapsed()? < HOUR, "the time is to be now");
    assert_eq!(mode(&store.file(&name))?, 0o444);

    fs::set_permissions(store.file(&name), Permissions::from_mode(0o644))?;
    age(&store, &name, 23 * HOUR)?;
    let before = time()?;
    assert!(renew()?.is_ok_and(|lease| lease.term.is_none()), "a reservation has no end");
    assert_eq!(time()?, before, "and its time stays");

    store.put(&name, &Peer::fictional(2).value())?;
    assert!(renew()?.is_err(), "another node has it");
    assert_eq!(time()?.elapsed()?.as_secs() / 3600, 0);
    store.delete(&name)?;
    assert!(renew()?.is_err(), "there is no such lease");
    Ok(())
}

#[test]
fn a_lease_that_no_longer_fits_the_network_is_replaced() -> TestResult {
    let (store, _cluster) = folder()?;
    let old = acquire(&store, 1)?.subnet.to_string();
    store.configure(&TWENTY.replace("10.5.", "10.6."))?;
    let new = acquire(&store, 1)?.subnet.to_string();
    assert!(new.starts_with("10.6."), "{new}");
    assert_eq!(store.leases()?.into_keys().collect::<Vec<_>>(), [new], "{old} is still there");
    Ok(())
}

#[test]
fn a_dual_stack_lease_is_one_file() -> TestResult {
    let (store, _cluster) = folder()?;
    let ipv6 = r#""EnableIPv6":true,"IPv6Network":"fd44::/48","IPv6SubnetMin":"fd44:0:0:4b::","#;
    store.configure(&TWENTY.replacen('{', &format!("{{{ipv6}"), 1).replace("10.5.20.0", "10.5.1.0"))?;
    let lease = acquire(&store, 1)?.subnet.to_string();
    assert!(lease.starts_with("10.5.1.0-24&fd44:0:0:"), "{lease}");
    assert_eq!(store.leases()?.into_keys().collect::<Vec<_>>(), [lease]);
    Ok(())
}

#[test]
fn a_file_that_cannot_be_created_is_named() -> TestResult {
    let (store, _cluster) = folder()?;
    store.configure(&TWENTY.replace("10.5.20.0", "10.5.1.0"))?;
    fs::create_dir(store.subnets())?;
    std::os::unix::fs::symlink("nowhere", store.file("10.5.1.0-24"))?;
    let refused = format!("{:#}", acquire(&store, 1).unwrap_err());
    assert!(refused.contains("10.5.1.0-24") && refused.contains("exists"), "{refused}");
    assert_eq!(fs::read_dir(store.subnets())?.count(), 1, "a temporary file stays");
    Ok(())
}

async fn next_keys(updates: &mut Receiver<LeaseUpdate>) -> Result<Vec<String>> {
    match timeout(SOON, updates.recv()).await? {
        Some(LeaseUpdate::Snapshot(leases)) => Ok(leases.into_iter().map(|lease| lease.key).collect()),
        other => anyhow::bail!("not a snapshot: {other:?}"),
    }
}

#[test]
fn a_watch_reports_changes_and_nothing_else() -> TestResult {
    let (store, _cluster) = folder()?;
    let (one, other) = (Peer::fictional(1), Peer::fictional(2));
    store.put(&one.name(), &one.value())?;
    run(async {
        let (sender, mut updates) = mpsc::channel(10);
        let manager = manager(&store);
        let test = async {
            assert_eq!(next_keys(&mut updates).await?, [one.name()]);
            // The same reservation again: in place, by rename, with another time. And hidden files.
            store.put(&one.name(), &one.value())?;
            store.put(".hidden", &one.value())?;
            fs::rename(store.file(".hidden"), store.file(&one.name()))?;
            age(&store, &one.name(), HOUR)?;
            store.put(".hidden", "")?;
            let quiet = timeout(QUIET, updates.recv()).await;
            ensure!(quiet.is_err(), "nothing has changed, but there was a report: {quiet:?}");
            // From now on it ends.
            fs::set_permissions(store.file(&one.name()), Permissions::from_mode(0o444))?;
            assert_eq!(next_keys(&mut updates).await?, [one.name()]);
            store.put(&other.name(), &other.value())?;
            assert_eq!(next_keys(&mut updates).await?, [one.name(), other.name()]);
            store.delete(&one.name())?;
            assert_eq!(next_keys(&mut updates).await?, [other.name()]);
            drop(updates);
            Ok(())
        };
        tokio::join!(manager.watch(sender), test).1
    })??;
    Ok(())
}
