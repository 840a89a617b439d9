//! The load of a large network on etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Agent, Cluster, Etcd, TestResult, eventually};

use super::managers::v4_value;
use crate::inspect::DEVICE;

const NETWORK: &str = r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#;
const NODES: u32 = 1000;
const SOON: Duration = Duration::from_secs(20);
const KINDS: [&str; 8] =
    ["Range", "Put", "Txn", "Watch", "LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive"];

fn served(etcd: &Etcd) -> Result<BTreeMap<&'static str, u64>> {
    KINDS.into_iter().map(|kind| Ok((kind, etcd.kv().served(kind)?))).collect()
}

#[test]
fn a_node_makes_the_same_few_requests_however_many_nodes_there_are() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let key = |n: u32| format!("{PREFIX}/subnets/10.{}.{}.0-24", 1 + n / 256, n % 256);
    let leases: Vec<_> = (0..NODES).map(|n| (key(n), v4_value(u8::try_from(n % 250).unwrap_or(0)))).collect();
    etcd.kv().put_all(&leases)?;
    let before = served(&etcd)?;
    let mut agent = Agent::builder(&cluster.nodes()[0]).etcd(&etcd).arg("--dataplane=netlink").start()?;
    agent.wait_ready()?;
    eventually("all nodes are known", SOON, || {
        let routes = cluster.nodes()[0].exec(&format!("ip route show dev {DEVICE}"))?.lines().count();
        ensure!(routes == usize::try_from(NODES)?, "{routes} routes");
        Ok(())
    })?;
    // Range: the configuration, the leases to choose a subnet, the leases to follow. The others: own lease, and watches of leases
    // and configuration.
    let expected = BTreeMap::from([("LeaseGrant", 1), ("Range", 3), ("Txn", 1), ("Watch", 2)]);
    eventually("all requests are made", SOON, || {
        let made = served(&etcd)?.into_iter().map(|(kind, count)| (kind, count - before[kind]));
        let made: BTreeMap<_, _> = made.filter(|(_, count)| *count > 0).collect();
        ensure!(made == expected, "{made:?} instead of {expected:?}");
        Ok(())
    })?;
    Ok(())
}
