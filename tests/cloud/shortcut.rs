//! Flows to pods behind the router of each cloud skip the host stack.

use anyhow::{Context as _, Result, ensure};
use flannel_tests::cloud::{Cloud, ali, gce};
use flannel_tests::traffic::UdpSession;
use flannel_tests::{Cluster, TestResult, eventually};

use super::{Bed, FOLLOW, ali_vpc, aws_vpc, nodes};
use crate::inspect;
use crate::overlay::past_stack;

const MORE: u64 = 50;

#[test]
fn flows_skip_the_stack_by_aws_vpc() -> TestResult {
    let cluster = nodes(2)?;
    let vpc = aws_vpc::vpc(&cluster)?;
    Ok(ensure_skips(&cluster, aws_vpc::CONFIG, &vpc)?)
}

#[test]
fn flows_skip_the_stack_by_gce() -> TestResult {
    let cluster = nodes(2)?;
    let project = gce::Project::start(&cluster)?;
    Ok(ensure_skips(&cluster, super::gce::CONFIG, &project)?)
}

#[test]
fn flows_skip_the_stack_by_ali_vpc() -> TestResult {
    let cluster = nodes(2)?;
    let vpc = ali::Vpc::start(&cluster, true)?;
    Ok(ensure_skips(&cluster, ali_vpc::CONFIG, &vpc)?)
}

/// Fails unless each packet of a proven flow skips both host stacks, also after the router has got another MAC.
fn ensure_skips(cluster: &Cluster, config: &str, cloud: &dyn Cloud) -> Result<()> {
    let bed = Bed::start(cluster, config, cloud)?;
    bed.ensure_all_reach_all(cluster, cloud)?;
    for (node, pod) in cluster.nodes().iter().zip(&bed.pods) {
        inspect::wait_plugged(node, pod)?;
    }
    let [one, other] = &bed.pods[..] else { unreachable!("two pods") };
    let mut session = UdpSession::open(one, other)?;
    session.echo(100)?;
    let node = &cluster.nodes()[0];
    let before = past_stack(node)?;
    (0..MORE).try_for_each(|size| session.echo(size as usize * 28))?;
    let after = past_stack(node)?;
    ensure!(after == before.map(|count| count + MORE), "{after:?} after {before:?}");
    let router = cluster.fabric().context("no router")?;
    let links = router.exec("ip -o -4 addr show to 192.168.64.254")?;
    let link = links.split_whitespace().nth(1).context("no link to the first segment")?;
    router.ip(&[format!("link set {link} address 02:00:00:00:00:77")])?;
    eventually("the flow goes on", FOLLOW, || session.request(100))?;
    eventually("it skips the stack again", FOLLOW, || {
        let before = past_stack(node)?;
        session.request(100)?;
        ensure!(past_stack(node)?[0] > before[0], "it does not");
        Ok(())
    })?;
    ensure!(bed.complaints().is_empty(), "{:?}", bed.complaints());
    Ok(())
}
