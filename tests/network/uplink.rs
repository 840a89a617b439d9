//! The choice of the uplink: by name, address, regular expression, and by an address that it reaches.

mod addresses;
mod names;
mod range;
mod stays;

use anyhow::{Context as _, Result};
use flannel_tests::{Agent, Cluster, Etcd, Node, TestResult};

use crate::inspect::{self, DEVICE};
use crate::overlay::{NETWORK, lines_of, refusal};

/// Starts a node with a second interface, `eth1`, and a bridge of pods as an earlier run leaves it.
fn bed() -> Result<(Etcd, Cluster)> {
    let cluster = Cluster::segment(1)?;
    cluster.nodes()[0].netns().ip(&[
        "link add eth1 type veth peer name far1",
        "link set eth1 up",
        "link set far1 up",
        "addr add 10.9.0.3/24 dev eth1",
        "addr add 10.9.0.4/24 dev eth1",
        "route add 172.30.0.0/16 via 10.9.0.9 src 10.9.0.4",
        "route add unreachable 2001:db8:ffff::/48",
        "link add cni0 type bridge",
        "addr add 10.5.1.1/24 dev cni0",
        "link set cni0 up",
    ])?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    Ok((etcd, cluster))
}

/// Returns interface and source address of the vxlan device, and the public IP in the lease.
fn chosen(node: &Node, etcd: &Etcd) -> Result<[String; 3]> {
    let links = node.netns().exec_json(&format!("ip -j -d link show dev {DEVICE}"))?;
    let data = &links[0]["linkinfo"]["info_data"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("no text");
    let lease: serde_json::Value = serde_json::from_str(&etcd.subnets()?[0].value)?;
    Ok([text(&data["link"])?, text(&data["local"])?, text(&lease["PublicIP"])?])
}

#[test]
fn flags_choose_interface_and_address() -> TestResult {
    let (etcd, cluster) = bed()?;
    let node = &cluster.nodes()[0];
    for (flags, expected) in [
        (&["-iface=eth1"][..], ["eth1", "10.9.0.3", "10.9.0.3"]),
        (&["--iface=10.9.0.4"], ["eth1", "10.9.0.4", "10.9.0.4"]),
        (&["--iface=eth7", "--iface=eth0"], ["eth0", "192.168.64.1", "192.168.64.1"]),
        (&["-iface-regex=^10\\."], ["eth1", "10.9.0.3", "10.9.0.3"]),
        (&["-iface-regex", "th0$"], ["eth0", "192.168.64.1", "192.168.64.1"]),
        (&["--iface-regex=eth"], ["eth0", "192.168.64.1", "192.168.64.1"]),
        (&["--iface-regex=^172\\.", "--iface-regex=0\\.4$"], ["eth1", "10.9.0.4", "10.9.0.4"]),
        (&["--iface-can-reach=172.30.5.5"], ["eth1", "10.9.0.4", "10.9.0.4"]),
        (&["-iface-can-reach", "203.0.113.1"], ["eth0", "192.168.64.1", "192.168.64.1"]),
        (&["--iface-can-reach=fd00:192:168:64::7"], ["eth0", "192.168.64.1", "192.168.64.1"]),
        (&["--public-ip=10.9.0.4"], ["eth1", "10.9.0.4", "10.9.0.4"]),
        (&["--public-ip=203.0.113.9", "--iface=eth1"], ["eth1", "10.9.0.3", "203.0.113.9"]),
    ] {
        let builder = Agent::builder(node).etcd(&etcd).arg("--dataplane=netlink");
        let mut agent = flags.iter().fold(builder, |agent, flag| agent.arg(*flag)).start()?;
        agent.wait_ready()?;
        assert_eq!(chosen(node, &etcd)?, expected, "{flags:?}");
        if flags == ["--iface-regex=eth"] {
            let several = "several interfaces match --iface-regex eth: using eth0, and not eth1 (10.9.0.3 ";
            let warnings = lines_of(&agent.log(), "WARN");
            assert!(warnings.iter().any(|line| line.contains(several)), "{warnings:#?}");
        }
        agent.term()?;
        // The next one is the first run of a node.
        node.netns().ip(&[format!("link del {DEVICE}")])?;
        std::fs::remove_file(node.subnet_file().with_extension("last-known.json"))?;
        etcd.kv().delete_prefix(&format!("{}/subnets/", flannel_tests::etcd::PREFIX))?;
    }
    Ok(())
}

#[test]
fn flags_that_match_no_interface_are_refused_with_a_list() -> TestResult {
    let (etcd, cluster) = bed()?;
    let node = &cluster.nodes()[0];
    for (flag, said) in [
        (
            "--iface=eth7",
            "no interface matches --iface eth7. Interfaces: lo (no address), mgmt0 (169.254.77.2",
        ),
        ("--iface-regex=^172\\.", "no interface matches --iface-regex ^172\\.. Interfaces: "),
        ("--iface-can-reach=2001:db8:ffff::1", "no interface matches --iface-can-reach 2001:db8:ffff::1"),
        ("--iface=cni0", "interface cni0 has no usable IPv4 address"),
    ] {
        let error = refusal(node, |agent| agent.etcd(&etcd).arg(flag))?;
        assert!(error.contains(said), "{flag}: {error}");
    }
    assert_eq!(etcd.subnets()?, [], "a node without an uplink has taken a subnet");
    assert!(inspect::link(node, DEVICE).is_err(), "a node without an uplink has a device");
    Ok(())
}
