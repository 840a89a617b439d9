//! What is found on the node itself.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::check::model::Check;
use flannel_tests::wait::patiently;
use flannel_tests::{TestResult, Topology, executable};
use nix::sys::signal::Signal;

use super::{SOON, cni_folder, finding, report, run, two_nodes};
use crate::inspect::Peer;
use crate::network::firewall::tools::installed;

#[test]
fn a_healthy_cluster_has_nothing_worse_than_notes() -> TestResult {
    let overlay = two_nodes(Topology::segment(2), "--dataplane=bpf")?;
    let node = &overlay.nodes()[0];
    let found = report(node, 0, &[])?;
    assert_eq!(found["schema"], 1);
    finding(&found, "peers", "ok", "1 of 1 answer")?;
    finding(&found, "full-packets", "ok", "1450 bytes reach all nodes")?;
    let findings = found["findings"].as_array().context("no findings")?;
    for check in Check::ALL {
        let has = findings
            .iter()
            .any(|finding| finding["check"] == check.name() && finding["title"] == check.title());
        assert!(has, "no finding of {}: {found:#}", check.name());
    }
    for finding in findings.iter().filter(|finding| finding["level"] != "ok") {
        assert!(finding["remedy"].is_string(), "{finding}");
    }
    let start = Instant::now();
    let text = String::from_utf8(run(node, &[])?.stdout)?;
    println!("in {:?}:\n{text}", start.elapsed());
    for words in [
        "[ok]      Agent and status: the agent runs",
        "[ok]      IP forwarding: on\n",
        "\n0 errors, 0 warnings, ",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
    Ok(())
}

#[test]
fn settings_rules_and_files_of_the_host_are_found() -> TestResult {
    let overlay = two_nodes(Topology::segment(2), "--dataplane=netlink")?;
    let node = &overlay.nodes()[0];
    node.netns().set(&[("net.ipv4.ip_forward", "0")])?;
    finding(&report(node, 2, &[])?, "forwarding", "error", "/proc/sys/net/ipv4/ip_forward is 0")?;
    node.netns().set(&[("net.ipv4.ip_forward", "1")])?;

    let other = cni_folder(node)?.join("05-other.conflist");
    fs::write(&other, r#"{"name": "other", "plugins": [{"type": "bridge"}]}"#)?;
    let found = report(node, 2, &[])?;
    finding(&found, "cni", "error", "05-other.conflist instead of 10-flannel.conflist")?;
    fs::remove_file(other)?;

    node.netns().set(&[("net/ipv4/conf/flannel.1/rp_filter", "1")])?;
    finding(&report(node, 0, &[])?, "reverse-path", "note", "strict at flannel.1")?;

    node.exec("iptables -P INPUT DROP")?;
    finding(&report(node, 2, &[])?, "tunnel-rules", "error", "-P INPUT DROP")?;
    node.exec("iptables -P INPUT ACCEPT")?;
    node.exec("iptables -I FORWARD -d 10.5.0.0/16 -j DROP")?;
    finding(&report(node, 2, &[])?, "forward-rules", "error", "-A FORWARD -d 10.5.0.0/16 -j DROP")?;
    node.exec("iptables -D FORWARD -d 10.5.0.0/16 -j DROP")?;

    node.exec("ip link set eth0 mtu 1400")?;
    node.exec("ip link set cni0 mtu 1500")?;
    let found = report(node, 2, &[])?;
    finding(&found, "mtu", "error", "eth0 has room for 1350")?;
    finding(&found, "mtu", "warning", "cni0 has an MTU of 1500")?;
    Ok(())
}

#[test]
fn nodes_with_one_address_or_one_mac_are_found() -> TestResult {
    let overlay = two_nodes(Topology::segment(2), "--dataplane=bpf")?;
    let node = &overlay.nodes()[0];
    let known = overlay.peer(1)?;
    let same_address = Peer { public_ip: known.public_ip, ..Peer::fictional(77) };
    let same_mac = Peer { mac: known.mac.clone(), ..Peer::fictional(78) };
    for peer in [&same_address, &same_mac] {
        overlay.etcd.put(&peer.key(), &peer.value())?;
    }
    let words = [
        ("shared-address", "error", format!("{}: {}/24, 10.5.77.0/24", known.public_ip, known.base)),
        (
            "shared-mac",
            "warning",
            format!("{}, as cloned machines have: {}/24, 10.5.78.0/24", known.mac, known.base),
        ),
    ];
    patiently("both are found", SOON, || {
        let found = report(node, 2, &[])?;
        words.iter().try_for_each(|(check, level, words)| finding(&found, check, level, words).map(drop))
    })?;
    Ok(())
}

#[test]
fn other_devices_and_an_agent_that_is_stopped_or_dead_are_found() -> TestResult {
    let mut overlay = two_nodes(Topology::segment(2), "--dataplane=netlink")?;
    overlay.nodes()[0].exec("ip link add other type vxlan external dstport 8472")?;
    let found = report(&overlay.nodes()[0], 0, &[])?;
    finding(&found, "devices", "note", "other of another program uses UDP port 8472")?;
    overlay.nodes()[0].exec("ip link del other")?;
    overlay.agents[0].signal(Signal::SIGSTOP)?;
    let stopped = report(&overlay.nodes()[0], 1, &[]);
    overlay.agents[0].signal(Signal::SIGCONT)?;
    finding(&stopped?, "agent", "warning", "the process is stopped")?;
    overlay.agents[0].kill()?;
    let node = &overlay.nodes()[0];
    let found = report(node, 1, &[])?;
    finding(&found, "agent", "warning", "the agent does not run")?;
    finding(&found, "peers", "ok", "1 of 1 answer")?;
    finding(&found, "capabilities", "note", "not known")?;
    node.exec("ip link del flannel.1")?;
    node.exec("ip link add flannel.1 type vxlan id 9 dev eth0 dstport 8472")?;
    finding(&report(node, 2, &[])?, "devices", "error", "its VNI is 9, not 1")?;
    Ok(())
}

#[test]
fn two_daemons_of_one_network_are_found() -> TestResult {
    let overlay = two_nodes(Topology::segment(2), "--dataplane=netlink")?;
    let node = &overlay.nodes()[0];
    // A process that does nothing, with the name and the flag of flanneld.
    let program = node.dir().join("flanneld");
    executable::copy(&installed("tail")?, &program)?;
    let mut daemon = node.netns().command(&program);
    let mut daemon =
        daemon.arg("-f").env("FLANNELD_SUBNET_FILE", node.subnet_file()).arg("/dev/null").spawn()?;
    let found = patiently("both are found", SOON, || {
        let found = report(node, 2, &[])?;
        finding(&found, "other-agents", "error", &format!("flanneld (pid {})", daemon.id())).map(drop)
    });
    daemon.kill()?;
    daemon.wait()?;
    found?;
    finding(&report(node, 0, &[])?, "other-agents", "ok", "none")?;
    Ok(())
}

#[test]
fn a_node_without_an_agent_or_a_subnet_gets_an_answer() -> Result<()> {
    let cluster = flannel_tests::Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let found = report(node, 2, &[])?;
    finding(&found, "agent", "error", "no agent has run here")?;
    finding(&found, "peers", "ok", "there are none to probe")?;
    let output = run(node, &["--peer", "192.0.2.1"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    ensure!(said.contains("--peer 192.0.2.1: no other node has this name"), "{said}");
    Ok(())
}
