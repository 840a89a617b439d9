//! Which of the uplink's addresses the node announces, and by which it finds its lease again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{Cluster, TestResult, eventually};

use crate::inspect;
use crate::overlay::{NETWORK, Overlay};

const FOLLOW: Duration = Duration::from_secs(5);
const BPF: [&str; 2] = ["--dataplane=bpf"; 2];

/// Returns key and public IP of each lease.
fn leases(overlay: &Overlay) -> Result<Vec<(String, String)>> {
    let lease = |entry: flannel_tests::etcd::KeyValue| {
        let value: serde_json::Value = serde_json::from_str(&entry.value)?;
        Ok((entry.key, value["PublicIP"].as_str().context("no public IP")?.to_owned()))
    };
    overlay.etcd.subnets()?.into_iter().map(lease).collect()
}

#[test]
fn an_address_of_a_service_beside_that_of_dhcp_is_not_announced() -> TestResult {
    let cluster = Cluster::segment(2)?;
    cluster.nodes()[0].netns().ip(&[
        "addr change 192.168.64.1/24 dev eth0 valid_lft 3600 preferred_lft 3600",
        // keepalived's way, and that of a service on a network of its own, which no prefix length shows.
        "addr add 192.168.64.200/32 dev eth0",
        "addr add 10.77.0.200/24 dev eth0",
    ])?;
    let mut overlay = Overlay::launch_on(NETWORK, cluster, &BPF, 1, |agent| agent)?;
    overlay.wait_joined()?;
    let before = leases(&overlay)?;
    let announced: Vec<_> = before.iter().map(|(_, ip)| ip.as_str()).collect();
    assert!(announced.contains(&"192.168.64.1") && announced.contains(&"192.168.64.2"), "{before:?}");
    // The service moves to another node.
    overlay.nodes()[0]
        .netns()
        .ip(&["addr del 192.168.64.200/32 dev eth0", "addr del 10.77.0.200/24 dev eth0"])?;
    overlay.agents[0].restart()?;
    overlay.wait_joined()?;
    assert_eq!(leases(&overlay)?, before);
    Ok(())
}

#[test]
fn a_node_whose_address_has_changed_while_it_had_no_agent_keeps_its_subnet() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let (subnet, device) = (overlay.base(0)?, inspect::link(&overlay.nodes()[0], inspect::DEVICE)?.mac);
    let keys = |overlay: &Overlay| -> Result<Vec<String>> {
        Ok(leases(overlay)?.into_iter().map(|(key, _)| key).collect())
    };
    let before = keys(&overlay)?;
    for (new, old, without_files) in
        [("192.168.64.101", "192.168.64.1", false), ("192.168.64.102", "192.168.64.101", true)]
    {
        overlay.agents[0].term()?;
        if without_files {
            // As after flanneld: subnet.env alone.
            std::fs::remove_file(overlay.nodes()[0].subnet_file().with_extension("last-known.json"))?;
        }
        overlay.nodes()[0].netns().ip(&[
            &format!("addr del {old}/24 dev eth0"),
            &format!("addr add {new}/24 dev eth0"),
            "route replace default via 192.168.64.254",
        ])?;
        overlay.agents[0].restart()?;
        assert_eq!(overlay.base(0)?, subnet, "the node has another subnet");
        assert_eq!(keys(&overlay)?, before);
        let moved = inspect::Peer { public_ip: new.parse()?, ..overlay.peer(0)? };
        assert_eq!(moved.mac, device);
        eventually("the peer follows", FOLLOW, || {
            ensure!(overlay.etcd.get(&moved.key())? == Some(moved.value()), "{:?}", leases(&overlay)?);
            inspect::ensure_knows(&overlay.nodes()[1], std::slice::from_ref(&moved))
        })?;
    }
    Ok(())
}
