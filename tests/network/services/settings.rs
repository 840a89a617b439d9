//! Settings of the node that lead packets another way through the stack.

use std::process::Command;

use anyhow::{Context as _, Result};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::traffic::{Connection, UdpAsker};
use flannel_tests::{Node, TestResult};

use super::shortcut::ensure_shortcut;
use super::{Bed, Family, SIZES, ensure_by, serve};
use crate::inspect::{DEVICE, UPLINK};

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
