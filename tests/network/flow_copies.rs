//! The flow cache and copies: a bridge that does not know where a pod is sends its packets to all ports.

use anyhow::{Result, ensure};
use flannel_tests::traffic::{UdpSession, ping};
use flannel_tests::{Node, Pod, TestResult, eventually};

use super::flow_cache::{SOON, overlay_of};
use super::flow_changes::{arrives, receiver};
use crate::inspect;

/// Lets the bridge forget where a pod is and learn nothing from it, as if it sent nothing for long. The node still knows its MAC.
fn forget(node: &Node, pod: &Pod) -> Result<()> {
    let shown = pod.netns().exec_json("ip -j link show dev eth0")?;
    let mac = shown[0]["address"].as_str().unwrap_or_default();
    node.netns().ip(&[
        format!("neigh replace {} lladdr {mac} dev cni0 nud permanent", pod.ip()),
        format!("link set dev {} type bridge_slave learning off", pod.port()),
    ])?;
    node.exec(&format!("bridge fdb del {mac} dev {} master", pod.port())).map(drop)
}

/// Sends datagrams of a new flow to a pod's port, each of which has to arrive.
fn send(from: &Pod, to: &Pod, port: u16, datagrams: u64) -> Result<()> {
    let (client, server) = (from.netns().udp_bind(from.ip(), 0)?, receiver(to, (to.ip(), port).into())?);
    (0..datagrams).try_for_each(|_| arrives(&client, &server))
}

#[test]
fn a_copy_at_another_pods_port_proves_nothing() -> TestResult {
    const DATAGRAMS: u64 = 5;
    let overlay = overlay_of(2)?;
    let (node, from) = (&overlay.nodes()[1], &overlay.pods[0][0]);
    let [to, beside] = &overlay.pods[1][..] else { unreachable!("two pods") };
    for pod in [to, beside] {
        let (client, server) =
            (from.netns().udp_bind(from.ip(), 0)?, receiver(pod, (pod.ip(), 7000).into())?);
        eventually("a first datagram", SOON, || arrives(&client, &server))?;
        forget(node, pod)?;
    }
    let delivered = || Ok::<_, anyhow::Error>(inspect::shortcut(node)?.1);
    // Programs see the copy at the other pod's port alone.
    let qdisc = |verb| {
        node.exec(&format!("tc qdisc {verb} dev {} root tbf rate 100mbit burst 64kb latency 50ms", to.port()))
    };
    qdisc("add")?;
    eventually("the port does not take the shortcut", SOON, || {
        ensure!(inspect::programs(node, to.port())?.is_empty(), "not yet");
        Ok(())
    })?;
    let before = delivered()?;
    send(from, to, 7001, DATAGRAMS)?;
    assert_eq!(delivered()?, before, "datagrams took the shortcut to a closed port, or to another");
    // They see both.
    qdisc("del")?;
    inspect::wait_plugged(node, to)?;
    for pod in [to, beside] {
        let before = delivered()?;
        send(from, pod, 7002, DATAGRAMS)?;
        assert_eq!(delivered()? - before, DATAGRAMS - 1, "datagrams that took the shortcut, of {DATAGRAMS}");
    }
    Ok(())
}

#[test]
fn a_pod_with_a_new_mac_takes_the_shortcut_again() -> TestResult {
    let overlay = overlay_of(1)?;
    let (node, (from, to)) = (&overlay.nodes()[1], overlay.two_pods());
    let mut session = UdpSession::open(from, to)?;
    (0..3).try_for_each(|_| session.echo(100))?;
    to.netns().ip(&["link set eth0 address 02:00:00:00:77:02"])?;
    // The node learns it by ARP.
    eventually("the pod is reached", SOON, || ping(to, from.ip()))?;
    let before = inspect::shortcut(node)?;
    eventually("it takes the shortcut", SOON, || {
        session.echo(100)?;
        let now = inspect::shortcut(node)?;
        ensure!(now.0 > before.0 && now.1 > before.1, "not yet: {now:?}");
        Ok(())
    })?;
    Ok(())
}
