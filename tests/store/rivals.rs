//! Two nodes with one public IP, as cloned machines have: the first one keeps its lease, and both say it once.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, Cluster, Datastore, Node, TestResult, eventually};

use crate::endpoint::{LOCALHOST, get, with_endpoint};
use crate::inspect::{self, DEVICE};
use crate::overlay::{NETWORK, lines_of};

/// Time limit for the nodes to settle. The first one writes its lease again after a second.
const SETTLING: Duration = Duration::from_secs(10);
/// A time in which nodes that do not settle write several times.
const PEACE: Duration = Duration::from_secs(3);

/// `lease` and `remove`: read and remove the only lease.
fn first_one_keeps_its_lease<S: Datastore>(
    cluster: &Cluster,
    store: &S,
    lease: impl Fn(&S) -> Result<String>,
    remove: impl Fn(&S) -> Result<()>,
) -> Result<()> {
    store.configure(NETWORK)?;
    let start = |node| -> Result<Agent> {
        let agent = with_endpoint(Agent::builder(node).store(store).arg("--public-ip=192.168.64.1"));
        let mut agent = agent.start()?;
        agent.wait_ready()?;
        Ok(agent)
    };
    let [one, other] = cluster.nodes() else { anyhow::bail!("two nodes are needed") };
    let mac = |node: &Node| Ok::<_, anyhow::Error>(inspect::link(node, DEVICE)?.mac);
    let mut first = start(one)?;
    let clone = start(other)?;
    let status = |node| Ok::<_, anyhow::Error>(get(node, LOCALHOST, "/readyz")?.0);
    let settled = || {
        let (status, lease) = ((status(one)?, status(other)?), lease(store)?);
        ensure!(status == (200, 503) && lease.contains(&mac(one)?), "{status:?}, {lease}");
        Ok(())
    };
    eventually("the first node keeps its lease", SETTLING, settled)?;
    throughout("nobody writes it again", PEACE, settled)?;
    let said = [&first, &clone].map(|agent| lines_of(&agent.log(), "WARN")).map(|lines| {
        lines
            .into_iter()
            .filter(|line| line.contains("two nodes have the address 192.168.64.1"))
            .collect::<Vec<_>>()
    });
    for lines in &said {
        let [line] = &lines[..] else { anyhow::bail!("not said once: {said:#?}") };
        ensure!(
            line.contains(&mac(one)?) && line.contains(&mac(other)?) && line.contains("--public-ip"),
            "{line}"
        );
    }
    let metrics = || Ok::<_, anyhow::Error>(get(other, LOCALHOST, "/metrics")?.1);
    let (errors, lasting) =
        (r#"flannel_errors_total{kind="contested-lease"} 1"#, r#"flannel_problems{kind="contested-lease"}"#);
    let now = metrics()?;
    ensure!(now.contains(errors) && now.contains(&format!("{lasting} 1")), "{now}");
    // The first node is gone for good.
    first.term()?;
    remove(store)?;
    eventually("the other one has a lease", SETTLING, || {
        let lease = lease(store)?;
        ensure!(lease.contains(&mac(other)?) && status(other)? == 200, "{lease}");
        ensure!(metrics()?.contains(&format!("{lasting} 0")), "{}", metrics()?);
        Ok(())
    })
}

#[test]
fn of_two_nodes_with_one_address_the_first_keeps_its_lease_in_etcd() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    let only = |etcd: &flannel_tests::Etcd| {
        let mut subnets = etcd.subnets()?;
        ensure!(subnets.len() == 1, "{subnets:?}");
        Ok(subnets.remove(0))
    };
    first_one_keeps_its_lease(
        &cluster,
        &etcd,
        |etcd| Ok(only(etcd)?.value),
        |etcd| etcd.delete(&only(etcd)?.key),
    )?;
    Ok(())
}

#[test]
fn of_two_nodes_with_one_address_the_first_keeps_its_lease_in_files() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let store = cluster.local_store("leases")?;
    let only = |store: &flannel_tests::LocalStore| {
        let leases = store.leases()?;
        let lease = leases.into_iter().find(|(name, _)| name.starts_with("10."));
        lease.ok_or_else(|| anyhow::anyhow!("no lease"))
    };
    first_one_keeps_its_lease(
        &cluster,
        &store,
        |store| Ok(only(store)?.1),
        |store| store.delete(&only(store)?.0),
    )?;
    Ok(())
}
