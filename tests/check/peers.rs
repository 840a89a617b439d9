//! What is found on the way to other nodes.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use flannel_tests::wait::patiently;
use flannel_tests::{Cluster, TestResult, Topology};

use super::{SOON, finding, report, two_nodes};
use crate::inspect::{Peer, UPLINK};
use crate::network::ipv6;
use crate::overlay::NETWORK;

#[test]
fn a_path_that_carries_less_than_the_uplink_is_found_with_its_length() -> TestResult {
    for (flag, narrow) in [("--dataplane=bpf", 1400), ("--dataplane=netlink", 1207)] {
        let overlay = two_nodes(Topology::two_nodes_routed(), flag)?;
        let node = &overlay.nodes()[0];
        let router = overlay.cluster.fabric().context("no router")?;
        router.exec(&format!("iptables -A FORWARD -m length --length {}: -j DROP", narrow + 1))?;
        let found = report(node, 2, &[])?;
        let words = format!("packets of 1450 bytes are lost, those of up to {} arrive", narrow - 50);
        let remedy = finding(&found, "full-packets", "error", &words)?["remedy"].as_str().unwrap_or_default();
        assert!(remedy.contains(&format!("set Backend.MTU to {narrow} on all nodes")), "{remedy}");
        finding(&found, "peers", "ok", "1 of 1 answer")?;
        assert_eq!(found["peers"][0]["longest_answered"], narrow - 50);
    }
    Ok(())
}

#[test]
fn a_blocked_port_is_found_on_both_nodes() -> TestResult {
    let overlay = two_nodes(Topology::segment(2), "--dataplane=netlink")?;
    let [node, other] = overlay.nodes() else { panic!("not two nodes") };
    node.exec("iptables -I INPUT -p udp --dport 8472 -j DROP")?;
    let here = report(node, 2, &[])?;
    finding(&here, "tunnel-rules", "error", "-A INPUT -p udp -m udp --dport 8472 -j DROP")?;
    for found in [here, report(other, 2, &[])?] {
        let silent = finding(&found, "peers", "error", "the underlay works, the tunnel does not")?;
        let remedy = silent["remedy"].as_str().unwrap_or_default();
        assert!(remedy.starts_with("is UDP 8472 open between the nodes?"), "{remedy}");
        assert_eq!(
            (&found["peers"][0]["answered"], &found["peers"][0]["underlay_answers"]),
            (&0.into(), &true.into())
        );
    }
    Ok(())
}

#[test]
fn a_node_is_chosen_and_a_silent_one_is_told_from_it() -> TestResult {
    let overlay = two_nodes(Topology::segment(2), "--dataplane=bpf")?;
    let node = &overlay.nodes()[0];
    let (known, silent) = (overlay.peer(1)?, Peer::fictional(77));
    overlay.etcd.put(&silent.key(), &silent.value())?;
    patiently("the silent one is found", SOON, || {
        let found = report(node, 1, &[])?;
        finding(&found, "peers", "warning", "10.5.77.0/24 at 192.168.64.77: neither the tunnel nor the node")
            .map(drop)
    })?;
    for name in [known.public_ip.to_string(), format!("{}/24", known.base)] {
        let found = report(node, 0, &["--peer", &name])?;
        let probed = found["peers"].as_array().context("no peers")?;
        assert!(probed.len() == 1 && probed[0]["public_ip"] == known.public_ip.to_string(), "{found:#}");
        assert_eq!((&probed[0]["sent"], &probed[0]["answered"]), (&5.into(), &5.into()));
        let times = &probed[0]["round_trip_us"];
        let time = |name: &str| times[name].as_u64();
        assert!(
            time("min") > Some(0) && time("min") <= time("median") && time("median") <= time("max"),
            "{times}"
        );
    }
    Ok(())
}

#[test]
fn each_backend_and_family_is_probed() -> TestResult {
    let of = |backend: &str| NETWORK.replace(r#""Type":"vxlan""#, backend);
    for (network, count, full) in [
        (of(r#""Type":"vxlan","DirectRouting":true"#), 1, 1450),
        (of(r#""Type":"host-gw""#), 1, 1500),
        (of(r#""Type":"udp""#), 1, 1472),
        (ipv6::DUAL.to_owned(), 2, 1430),
    ] {
        let cluster = Cluster::segment(2)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(&network)?;
        let _agents = cluster.start_agents_with(&etcd, |agent| agent)?;
        let _pods = cluster.one_pod_each()?;
        patiently("all peers answer", SOON, || {
            let found = report(&cluster.nodes()[0], 0, &[])?;
            finding(&found, "peers", "ok", &format!("{count} of {count} answer"))?;
            let probed = found["peers"].as_array().context("no peers")?;
            ensure!(probed.iter().all(|peer| peer["longest_answered"] == full), "{network}: {found:#}");
            let families: Vec<_> =
                probed.iter().filter_map(|peer| peer["public_ip"].as_str()?.parse().ok()).collect();
            ensure!(
                families.iter().filter(|address: &&IpAddr| address.is_ipv6()).count() == count - 1,
                "{families:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn many_silent_nodes_take_no_longer_than_few() -> TestResult {
    let overlay = two_nodes(Topology::segment(2), "--dataplane=bpf")?;
    let node = &overlay.nodes()[0];
    for number in 64..254 {
        let peer = Peer::fictional(number);
        overlay.etcd.put(&peer.key(), &peer.value())?;
    }
    patiently("all are known", SOON, || {
        let start = Instant::now();
        let found = report(node, 1, &[])?;
        ensure!(found["peers"].as_array().map(Vec::len) == Some(191), "not all yet");
        finding(&found, "peers", "warning", "(and 180 more nodes)")?;
        println!("with 191 nodes, of which one answers: {:?}", start.elapsed());
        Ok(())
    })?;
    finding(&report(node, 1, &[])?, "full-packets", "ok", "1450 bytes")?;
    node.exec(&format!("ip link set {UPLINK} down"))?;
    finding(&report(node, 2, &[])?, "agent", "error", "the uplink eth0 is down")?;
    Ok(())
}
