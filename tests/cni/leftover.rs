//! The bridge of a subnet that the node had before.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::ping;
use flannel_tests::{Cluster, Host, TestResult, Topology, eventually};
use serde_json::Value;

use super::runtime::{Runtime, Sandbox, refused};
use super::{addresses, conflist, set_up, write_subnet};
use crate::inspect::Peer;
use crate::overlay::Overlay;

const SOON: Duration = Duration::from_secs(10);

fn overlay() -> Result<Overlay> {
    Overlay::start(Topology::segment(2), &["--ip-masq"; 2], 0)
}

/// Returns the runtimes of both nodes.
fn runtimes(overlay: &Overlay) -> Result<[Runtime<'_>; 2]> {
    let [one, other] = overlay.nodes() else { anyhow::bail!("two nodes") };
    Ok([set_up(one, &conflist(one, "1.0.0", |_| {}))?, set_up(other, &conflist(other, "1.0.0", |_| {}))?])
}

/// Gives the first node another subnet, as a Kubernetes node gets when it is deleted and added again.
fn change_subnet(overlay: &Overlay) -> Result<()> {
    let old = overlay.peer(0)?;
    let intruder = Peer { base: old.base, ..Peer::fictional(99) };
    overlay.etcd.put(&intruder.key(), &intruder.value())?;
    eventually("the node has another subnet", SOON, || {
        ensure!(overlay.base(0)? != old.base, "still {}", old.base);
        Ok(())
    })?;
    overlay.etcd.delete(&intruder.key())
}

#[test]
fn a_bridge_without_pods_is_replaced_by_one_for_the_new_subnet() -> TestResult {
    let overlay = overlay()?;
    let [first, second] = runtimes(&overlay)?;
    let remote = second.add(Value::Null)?;
    first.detach(&first.add(Value::Null)?)?;
    let node = &overlay.nodes()[0];
    let old = addresses(node.netns(), "cni0")?;
    change_subnet(&overlay)?;
    assert_eq!(addresses(node.netns(), "cni0")?, old, "the bridge was changed too early to test anything");
    let pod = first.add(Value::Null)?;
    let gateway = node.subnet_env()?.subnet.map(|net| net.to_string());
    assert_eq!(addresses(node.netns(), "cni0")?, Vec::from_iter(gateway));
    eventually("pods reach each other", SOON, || ping(&pod, remote.ip()).and(ping(&remote, pod.ip())))?;
    Ok(())
}

#[test]
fn a_bridge_with_pods_is_named_with_their_ports_and_replaced_when_they_are_gone() -> TestResult {
    let overlay = overlay()?;
    let [first, second] = runtimes(&overlay)?;
    let (old, remote) = (first.add(Value::Null)?, second.add(Value::Null)?);
    change_subnet(&overlay)?;
    let error = refused(first.add(Value::Null))?;
    assert_eq!(error.code, 11, "{error}");
    assert!(error.msg.starts_with("cni0 already has an IP address different from "), "{error}");
    assert!(error.details.contains(&format!("attached by {}", old.port()?)), "{error}");
    first.detach(&old)?;
    let pod = first.add(Value::Null)?;
    eventually("pods reach each other", SOON, || ping(&pod, remote.ip()).and(ping(&remote, pod.ip())))?;
    Ok(())
}

#[test]
fn pods_made_at_the_same_time_replace_the_bridge_once() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let runtime = set_up(node, &conflist(node, "1.0.0", |_| {}))?;
    write_subnet(node, "10.5.1.1/24")?;
    runtime.detach(&runtime.add(Value::Null)?)?;
    write_subnet(node, "10.5.2.1/24")?;
    let pods: Vec<Sandbox> = thread::scope(|scope| {
        let started: Vec<_> = (0..8).map(|_| scope.spawn(|| runtime.add(Value::Null))).collect();
        let ended =
            started.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.collect::<Result<_>>()
    })?;
    assert_eq!(addresses(node.netns(), "cni0")?, ["10.5.2.1/24"]);
    let distinct: BTreeSet<_> = pods.iter().map(Host::ip).collect();
    assert_eq!(distinct.len(), pods.len(), "{distinct:?}");
    let gateway = "10.5.2.1".parse()?;
    pods.iter()
        .try_for_each(|pod| eventually("a pod reaches its gateway", SOON, || ping(pod, gateway)).map(drop))?;
    Ok(())
}
