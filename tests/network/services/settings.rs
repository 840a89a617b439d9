//! Settings of the node that lead packets another way through the stack.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::flow::TRANSLATED_NS;
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::traffic::{At, Connection, UdpAsker};
use flannel_tests::wait::{scaled, throughout};
use flannel_tests::{Node, TestResult, eventually};

use super::shortcut::{ensure_shortcut, past_stack};
use super::{Bed, Family, POD_PORT, SIZES, ensure_by, serve};
use crate::inspect::{self, DEVICE, UPLINK};
use crate::network::flow_cache::SOON;

/// Lets all CPUs process the packets that an interface receives (receive packet steering).
fn steer(node: &Node, interface: &str) -> Result<()> {
    // `ip netns exec` shows the namespace's own interfaces in /sys.
    let write = format!(
        "echo ffffffff > /sys/class/net/{interface}/queues/rx-0/rps_cpus || \
                         echo 3 > /sys/class/net/{interface}/queues/rx-0/rps_cpus"
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", node.netns().name(), "sh", "-c", &write]);
    finish(&mut command, "", LIMIT).map(drop)
}

/// Asks over UDP and TCP in both families, through the stack and past it.
fn traffic(bed: &Bed) -> Result<()> {
    let node = &bed.overlay.nodes()[0];
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    for family in Family::BOTH {
        let (client, server, service) = (bed.pod(0, family), serve(&bed.pod(1, family))?, family.service(10));
        proxies.sync(&Service::both("web", service, &[server.address()]))?;
        let mut asker = UdpAsker::open(&client, 0)?;
        ensure_shortcut(node, || ensure_by(asker.ask(service, 100)?, &server))
            .with_context(|| format!("UDP over {family:?}"))?;
        SIZES.into_iter().try_for_each(|size| ensure_by(asker.ask(service, size)?, &server))?;
        let mut connection = Connection::open(&client, 0, service)?;
        ensure_shortcut(node, || ensure_by(connection.ask(100)?, &server))
            .with_context(|| format!("TCP over {family:?}"))?;
        ensure_by(connection.ask(2 << 20)?, &server)?;
    }
    proxies.remove()
}

#[test]
fn packets_change_the_cpu_on_their_way() -> TestResult {
    let bed = Bed::new(2)?;
    for (node, pods) in bed.overlay.nodes().iter().zip(&bed.overlay.pods) {
        [pods[0].port(), DEVICE, crate::network::ipv6::DEVICE, UPLINK]
            .iter()
            .try_for_each(|interface| steer(node, interface))?;
    }
    traffic(&bed)?;
    Ok(())
}

#[test]
fn the_bridge_shows_its_packets_to_iptables_or_not() -> TestResult {
    let bed = Bed::new(2)?;
    for value in ["0", "1"] {
        for node in bed.overlay.nodes() {
            for tables in ["iptables", "ip6tables"] {
                node.netns().set(&[(&format!("net.bridge.bridge-nf-call-{tables}"), value)])?;
            }
        }
        traffic(&bed).with_context(|| format!("bridge-nf-call-iptables={value}"))?;
    }
    Ok(())
}

/// The server answers one request for long. Fails unless each answer arrives, from the service.
fn answers_arrive(client: &At<'_>, server: &At<'_>, service: SocketAddr) -> Result<()> {
    let [asker, answerer] =
        [client.netns.udp_bind(client.ip, 0)?, server.netns.udp_bind(server.ip, POD_PORT)?];
    [&asker, &answerer]
        .into_iter()
        .try_for_each(|socket| socket.set_read_timeout(Some(scaled(Duration::from_secs(1)))))?;
    let mut buffer = [0; 16];
    asker.send_to(b"request", service)?;
    let (_, seen) = answerer.recv_from(&mut buffer).context("the request")?;
    throughout("the answers arrive", Duration::from_nanos(4 * TRANSLATED_NS), || {
        answerer.send_to(b"answer", seen)?;
        let (length, from) = asker.recv_from(&mut buffer)?;
        ensure!((&buffer[..length], from) == (&b"answer"[..], service), "another one, from {from}");
        Ok(())
    })
}

#[test]
fn the_connection_tracker_forgets_a_translated_flow_sooner_than_a_proof_usually_ends() -> TestResult {
    let bed = Bed::new(2)?;
    let node = &bed.overlay.nodes()[0];
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    // With 1 s, a busy machine may be late.
    let timeout = "2";
    for name in ["udp_timeout", "udp_timeout_stream"] {
        node.netns().set(&[(&format!("net.netfilter.nf_conntrack_{name}"), timeout)])?;
    }
    eventually("proofs are short", SOON, || {
        let proof = inspect::node_config(node)?.translated_proof;
        ensure!(proof == 333, "{proof} ms");
        Ok(())
    })?;
    for family in Family::BOTH {
        let (client, server, service) = (bed.pod(0, family), bed.pod(1, family), family.service(10));
        proxies.sync(&Service::both("web", service, &[SocketAddr::new(server.ip, POD_PORT)]))?;
        let before = past_stack(node)?;
        answers_arrive(&client, &server, service).with_context(|| format!("over {family:?}"))?;
        let received = past_stack(node)?.1 - before.1;
        assert!(received > 20, "{family:?}: {received} answers were received past the stack");
    }
    Ok(())
}
