//! The rules of leases are the same in etcd and in a folder.

use anyhow::{Context as _, Result};
use flannel_agent::config::NetworkConfig;
use flannel_agent::lease::local::LocalManager;
use flannel_agent::lease::{LeaseAttrs, Loss, PublicIps, SubnetManager, Traces};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Cluster, Datastore as _, Etcd, LocalStore, TestResult};

use super::etcd::managers::{V4, manager, run, v4_value};

/// Values that name no node.
const SPOILT: [&str; 5] =
    ["", "overwritten by mistake", "{}", r#"{"PublicIP":"nowhere"}"#, r#"{"PublicIP":"0.0.0.0"}"#];

/// A datastore whose entries the test changes behind the manager's back.
trait Entries {
    fn write(&self, name: &str, value: &str) -> Result<()>;
    fn read(&self, name: &str) -> Result<Option<String>>;
    fn remove(&self, name: &str) -> Result<()>;
}

impl Entries for Etcd {
    fn write(&self, name: &str, value: &str) -> Result<()> {
        self.kv().put_for(&format!("{PREFIX}/subnets/{name}"), value, 600).map(drop)
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        self.get(&format!("{PREFIX}/subnets/{name}"))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.delete(&format!("{PREFIX}/subnets/{name}"))
    }
}

impl Entries for LocalStore {
    fn write(&self, name: &str, value: &str) -> Result<()> {
        self.put(name, value)
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        Ok(self.leases()?.remove(name))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.delete(name)
    }
}

fn node(number: u8) -> Result<LeaseAttrs> {
    Ok(serde_json::from_str(&v4_value(number))?)
}

async fn ensure_rules(manager: impl SubnetManager, entries: &impl Entries) -> Result<()> {
    let lease = manager.acquire(&NetworkConfig::parse(V4)?, &node(1)?, &Traces::default()).await?;
    let name = lease.subnet.to_string();
    for spoilt in SPOILT {
        for number in [1, 7] {
            entries.write(&name, spoilt)?;
            let kept = manager.renew(&lease, &node(number)?).await?;
            let kept = kept.with_context(|| format!("{spoilt:?} is to be repaired"))?;
            assert_eq!((kept.subnet, kept.term.is_some()), (lease.subnet, true), "{spoilt:?}");
            assert_eq!(entries.read(&name)?, Some(v4_value(number)), "{spoilt:?}");
        }
    }
    manager.renew(&lease, &node(7)?).await?.context("a second try to write a new address is to succeed")?;

    let other = PublicIps::from(&node(2)?);
    for number in [1, 7] {
        entries.write(&name, &v4_value(2))?;
        let lost = manager.renew(&lease, &node(number)?).await?.err();
        assert_eq!(lost, Some(Loss::TakenBy(other)));
        assert_eq!(entries.read(&name)?, Some(v4_value(2)), "another node's value is to stay");
    }
    entries.remove(&name)?;
    assert_eq!(manager.renew(&lease, &node(1)?).await?.err(), Some(Loss::Gone));
    assert_eq!(entries.read(&name)?, None, "a lost lease is not to be written");
    Ok(())
}

#[test]
fn etcd_repairs_a_spoilt_lease_and_loses_one_to_another_node() -> TestResult {
    let etcd = Etcd::start()?;
    run(ensure_rules(manager(&etcd), &etcd))?;
    Ok(())
}

#[test]
fn a_folder_repairs_a_spoilt_lease_and_loses_one_to_another_node() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.local_store("leases")?;
    store.configure(V4)?;
    run(ensure_rules(LocalManager::new(store.dir().to_owned()), &store))?;
    Ok(())
}
