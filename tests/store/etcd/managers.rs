//! Managers without agents, in a real etcd: which subnet they take, what they write, how long it lasts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::config::NetworkConfig;
use flannel_agent::lease::etcd::{EtcdManager, EtcdOptions, TlsFiles};
use flannel_agent::lease::{LeaseAttrs, OwnLease, SubnetManager as _, Traces};
use flannel_tests::etcd::{KeyValue, PREFIX};
use flannel_tests::{Etcd, TestResult};

/// Subnets 10.5.1.0 to 10.5.9.0.
pub(in crate::store) const V4: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.0","Backend":{"Type":"vxlan"}}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.0","EnableIPv6":true,"IPv6Network":"fd44::/48","IPv6SubnetMax":"fd44:0:0:9::","Backend":{"Type":"vxlan"}}"#;
const V6: &str = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd44::/48","IPv6SubnetMax":"fd44:0:0:9::","Backend":{"Type":"vxlan"}}"#;
/// The number of subnets in each of the networks.
const NODES: u8 = 9;
const DAY: i64 = 86_400;

pub(in crate::store) fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

pub(in crate::store) fn manager(etcd: &Etcd) -> EtcdManager {
    let (endpoints, prefix) = (vec![etcd.endpoint()], PREFIX.to_owned());
    EtcdManager::new(EtcdOptions { endpoints, prefix, tls: TlsFiles::default(), login: None })
}

/// Returns the value of a node's lease in both address families.
fn dual_value(node: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.0.{node}","PublicIPv6":"fd00::{node}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:{node:02x}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:90:{node:02x}"}}}}"#
    )
}

pub(in crate::store) fn v4_value(node: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.0.{node}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:{node:02x}"}}}}"#
    )
}

fn v6_value(node: u8) -> String {
    format!(
        r#"{{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::{node}","BackendType":"vxlan","BackendV6Data":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:90:{node:02x}"}}}}"#
    )
}

fn attrs(value: &str) -> Result<LeaseAttrs> {
    Ok(serde_json::from_str(value)?)
}

/// Takes a subnet as an agent does at its start that writes this value and had this subnet in its last run.
pub(in crate::store) fn acquire(
    etcd: &Etcd,
    config: &str,
    value: &str,
    previous: Option<&str>,
) -> Result<OwnLease> {
    let traces = Traces { subnet: previous.map(str::parse).transpose()?, ..Traces::default() };
    let (config, attrs) = (NetworkConfig::parse(config)?, attrs(value)?);
    run(async { manager(etcd).acquire(&config, &attrs, &traces).await })
}

fn key(lease: &OwnLease) -> String {
    path(&lease.subnet.to_string())
}

fn path(name: &str) -> String {
    format!("{PREFIX}/subnets/{name}")
}

fn entry(etcd: &Etcd, lease: &OwnLease) -> Result<KeyValue> {
    etcd.kv().entry(&key(lease))?.with_context(|| format!("{lease} is gone"))
}

/// Checks that an entry ends in 24 h.
fn ensure_lasts_a_day(etcd: &Etcd, entry: &KeyValue) -> Result<()> {
    let left = etcd.kv().seconds_left(entry.lease)?;
    ensure!((DAY - 60..=DAY).contains(&left), "it lives for {left} s");
    Ok(())
}

#[test]
fn each_address_family_is_written_as_flannel_writes_it() -> TestResult {
    let etcd = Etcd::start()?;
    for (config, value, v4, v6) in
        [(V4, v4_value(1), true, false), (DUAL, dual_value(2), true, true), (V6, v6_value(3), false, true)]
    {
        let lease = acquire(&etcd, config, &value, None)?;
        assert_eq!((lease.subnet.v4.is_some(), lease.subnet.v6.is_some()), (v4, v6), "{lease}");
        let entry = entry(&etcd, &lease)?;
        assert_eq!(entry.value, value);
        ensure_lasts_a_day(&etcd, &entry)?;
        let again = acquire(&etcd, config, &value, None)?;
        assert_eq!(again.subnet, lease.subnet, "found again by public IP alone");
        assert_eq!(entry.mod_revision, self::entry(&etcd, &lease)?.mod_revision, "nothing new was written");
    }
    Ok(())
}

#[test]
fn in_dual_stack_each_subnet_of_both_families_is_taken_once() -> TestResult {
    let etcd = Etcd::start()?;
    let leases = std::thread::scope(|scope| {
        let etcd = &etcd;
        let start = |node| scope.spawn(move || acquire(etcd, DUAL, &dual_value(node), None));
        let threads: Vec<_> = (1..=NODES).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<_>>>()
    })?;
    for (n, one) in leases.iter().enumerate() {
        let other = leases[..n].iter().find(|other| other.subnet.overlaps(&one.subnet));
        assert!(other.is_none(), "{one} overlaps {other:?}");
    }
    let refused = acquire(&etcd, DUAL, &dual_value(100), None).unwrap_err().to_string();
    assert!(refused.contains("no subnet is free: there are 9 leases"), "{refused}");
    let held = etcd.kv().post("lease/leases", &serde_json::json!({}))?;
    assert_eq!(held["leases"].as_array().map(Vec::len), Some(NODES.into()), "etcd leases: {held}");
    Ok(())
}

#[test]
fn our_lease_comes_before_the_previous_subnet_and_that_before_a_free_one() -> TestResult {
    let etcd = Etcd::start()?;
    let other = v4_value(9);
    etcd.put(&path("10.5.1.0-24"), &other)?;
    let take =
        |previous| Ok::<_, anyhow::Error>(acquire(&etcd, V4, &v4_value(1), previous)?.subnet.to_string());
    assert_eq!(take(Some("10.5.5.0-24"))?, "10.5.5.0-24", "the previous subnet, which is free");
    assert_eq!(take(Some("10.5.6.0-24"))?, "10.5.5.0-24", "the lease with our public IP");
    for previous in ["10.5.1.0-24", "10.5.77.0-24", "10.5.6.0-25", "10.9.0.0-24"] {
        etcd.delete(&path("10.5.5.0-24"))?;
        etcd.put(&path("10.5.6.0-24"), &other)?;
        let taken = take(Some(previous))?;
        assert!(!["10.5.1.0-24", "10.5.6.0-24", previous].contains(&taken.as_str()), "{taken}");
        etcd.delete(&path(&taken))?;
        assert_eq!(take(Some("10.5.5.0-24"))?, "10.5.5.0-24");
    }
    assert_eq!(etcd.get(&path("10.5.1.0-24"))?, Some(other), "another node's lease");
    Ok(())
}

#[test]
fn a_reservation_gets_our_value_and_neither_ends_nor_is_renewed() -> TestResult {
    let etcd = Etcd::start()?;
    etcd.put(&path("10.5.4.0-24"), r#"{"PublicIP":"192.168.0.1"}"#)?;
    let lease = acquire(&etcd, V4, &v4_value(1), Some("10.5.7.0-24"))?;
    assert_eq!((lease.subnet.to_string().as_str(), lease.term), ("10.5.4.0-24", None));
    let written = entry(&etcd, &lease)?;
    assert_eq!((written.value.as_str(), written.lease), (v4_value(1).as_str(), 0));
    let renewed = run(manager(&etcd).renew(&lease, &lease.attrs))?.context("it is still ours")?;
    assert_eq!((renewed.subnet, renewed.term), (lease.subnet, None));
    assert_eq!(entry(&etcd, &lease)?, written, "it must not be written again");
    assert_eq!(
        etcd.kv().post("lease/leases", &serde_json::json!({}))?["leases"].as_array(),
        None,
        "etcd leases"
    );
    Ok(())
}

#[test]
fn our_lease_that_no_longer_fits_the_network_is_removed_and_a_reservation_is_not() -> TestResult {
    let etcd = Etcd::start()?;
    let old = acquire(&etcd, V4, &dual_value(1), None)?;
    etcd.put(&path("10.8.1.0-24"), &dual_value(1))?;
    let new = acquire(&etcd, DUAL, &dual_value(1), Some(&old.to_string()))?;
    let keys: Vec<_> = etcd.subnets()?.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, [key(&new), path("10.8.1.0-24")]);
    Ok(())
}

#[test]
fn a_lease_that_ends_soon_gets_a_day_when_it_is_reused_and_when_it_is_renewed() -> TestResult {
    let etcd = Etcd::start()?;
    etcd.kv().put_for(&path("10.5.4.0-24"), &v4_value(1), 600)?;
    let lease = acquire(&etcd, V4, &v4_value(1), None)?;
    assert_eq!(lease.subnet.to_string(), "10.5.4.0-24");
    ensure_lasts_a_day(&etcd, &entry(&etcd, &lease)?)?;

    etcd.kv().put_for(&key(&lease), &v4_value(1), 600)?;
    let renewed = run(manager(&etcd).renew(&lease, &lease.attrs))?.context("it is still ours")?;
    ensure_lasts_a_day(&etcd, &entry(&etcd, &lease)?)?;
    let left = renewed.term.context("it is no reservation")?.duration_since(tokio::time::Instant::now());
    assert!(left > Duration::from_secs(23 * 3600), "{left:?}");
    Ok(())
}

#[test]
fn renewal_repairs_a_spoilt_value_and_leaves_that_of_another_node() -> TestResult {
    let etcd = Etcd::start()?;
    let lease = acquire(&etcd, V4, &v4_value(1), None)?;
    let renew = || run(manager(&etcd).renew(&lease, &lease.attrs));
    let written = entry(&etcd, &lease)?;
    assert!(renew()?.is_ok(), "ours");
    assert_eq!(entry(&etcd, &lease)?, written, "only the etcd lease is to be renewed");
    for spoilt in ["", "overwritten by mistake", "{}"] {
        etcd.kv().put_for(&key(&lease), spoilt, 600)?;
        assert!(renew()?.is_ok(), "{spoilt}");
        let repaired = entry(&etcd, &lease)?;
        assert_eq!(repaired.value, v4_value(1));
        ensure_lasts_a_day(&etcd, &repaired)?;
    }
    etcd.put(&key(&lease), &v4_value(2))?;
    assert!(renew()?.is_err(), "another node's");
    assert_eq!(entry(&etcd, &lease)?.value, v4_value(2));
    etcd.delete(&key(&lease))?;
    assert!(renew()?.is_err(), "gone");
    Ok(())
}

#[test]
fn a_new_address_is_written_on_the_same_subnet() -> TestResult {
    let etcd = Etcd::start()?;
    let lease = acquire(&etcd, V4, &v4_value(1), None)?;
    let before = entry(&etcd, &lease)?;
    let moved = run(async { manager(&etcd).renew(&lease, &attrs(&v4_value(7))?).await })?;
    assert_eq!(moved.context("it is still ours")?.subnet, lease.subnet);
    let after = entry(&etcd, &lease)?;
    assert_eq!((after.value, after.lease), (v4_value(7), before.lease));
    // An agent that misses the answer tries again.
    assert!(run(async { manager(&etcd).renew(&lease, &attrs(&v4_value(7))?).await })?.is_ok());
    Ok(())
}
