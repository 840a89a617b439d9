//! The bench's variant `flowtable`, on a kernel that has flowtables: kernel vxlan whose established flows skip forwarding.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::{TcpSession, UdpSession, ping};
use flannel_tests::{Cluster, TestResult, eventually, flowtable, kernel_vxlan};

const SOON: Duration = Duration::from_secs(5);
/// Requests of a round, and as many answers.
const REQUESTS: usize = 20;

#[test]
#[ignore = "needs the kernel module nf_flow_table, which `cargo xtask vm` has"]
fn established_flows_skip_forwarding() -> TestResult {
    flowtable::require()?;
    let cluster = Cluster::two_nodes()?;
    kernel_vxlan::vxlan(cluster.nodes())?;
    let pods = cluster.one_pod_each()?;
    for (node, pod) in cluster.nodes().iter().zip(&pods) {
        flowtable::start(node, &[pod.port(), kernel_vxlan::DEVICE])?;
    }
    eventually("the pods reach each other", SOON, || ping(&pods[0], pods[1].ip()).map(drop))?;
    // Its first packets are forwarded, those of the handshake as well.
    let before = forwarded(&cluster)?;
    let mut stream = TcpSession::open(&pods[0], &pods[1])?;
    wait_skipped(&cluster, "TCP", &before, || stream.exchange(100))?;
    let before = forwarded(&cluster)?;
    let mut datagrams = UdpSession::open(&pods[0], &pods[1])?;
    wait_skipped(&cluster, "UDP", &before, || datagrams.echo(100)).map_err(Into::into)
}

/// Returns how many packets of TCP and UDP each node has forwarded.
fn forwarded(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster.nodes().iter().map(flowtable::forwarded).collect()
}

/// Waits until the packets of a flow skip forwarding. Some were or are forwarded first, since `before`.
fn wait_skipped(
    cluster: &Cluster,
    protocol: &str,
    before: &[u64],
    mut exchange: impl FnMut() -> Result<()>,
) -> Result<()> {
    exchange()?;
    let first = forwarded(cluster)?;
    ensure!(first.iter().zip(before).all(|(now, before)| now > before), "{protocol}: {before:?}, {first:?}");
    eventually(&format!("{protocol} skips forwarding"), SOON, || {
        let before = forwarded(cluster)?;
        (0..REQUESTS).try_for_each(|_| exchange())?;
        let now = forwarded(cluster)?;
        ensure!(now == before, "{before:?} packets were forwarded, then {now:?}");
        Ok(())
    })
}
