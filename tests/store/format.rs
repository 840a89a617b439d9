//! Formats that other programs read: keys and values in etcd, and subnet.env.

use std::os::unix::fs::PermissionsExt as _;

use flannel_tests::etcd::PREFIX;
use flannel_tests::{Agent, Cluster, TestResult};

use crate::inspect::{self, DEVICE};
use crate::overlay::Overlay;

/// Lifetime of a lease in seconds.
const DAY: i64 = 86_400;

#[test]
fn a_lease_is_written_as_flannel_writes_it() -> TestResult {
    let overlay = Overlay::bpf(1)?;
    let expected = overlay.peer(0)?;
    let leases = overlay.etcd.subnets()?;
    let [lease] = &leases[..] else { panic!("one node, and {leases:?}") };
    assert_eq!(lease.key, expected.key());
    assert_eq!(lease.value, expected.value());
    let left = overlay.etcd.kv().seconds_left(lease.lease)?;
    assert!((DAY - 60..=DAY).contains(&left), "the lease lives for {left} s");
    Ok(())
}

#[test]
fn subnet_env_is_written_as_flannel_writes_it() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    let whole = r#"{"Network":"10.7.0.0/16","SubnetLen":26,"SubnetMin":"10.7.9.64","SubnetMax":"10.7.9.64","Backend":{"Type":"vxlan"}}"#;
    let narrow = r#"{"Network":"10.8.3.0/24","SubnetMin":"10.8.3.64","SubnetMax":"10.8.3.64","Backend":{"Type":"vxlan","MTU":1480}}"#;
    for (config, node, network, subnet, mtu) in
        [(whole, 0, "10.7.0.0/16", "10.7.9.65/26", 1450), (narrow, 1, "10.8.3.0/24", "10.8.3.65/26", 1430)]
    {
        let node = &cluster.nodes()[node];
        etcd.configure(config)?;
        Agent::builder(node).etcd(&etcd).start()?.wait_ready()?;
        let text = std::fs::read_to_string(node.subnet_file())?;
        let expected = format!(
            "FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n"
        );
        assert_eq!(text, expected, "{config}");
        let mode = std::fs::metadata(node.subnet_file())?.permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "the file's mode");
        let shown = node.netns().exec_json(&format!("ip -j link show dev {DEVICE}"))?;
        assert_eq!(shown[0]["mtu"], mtu, "the device's MTU");
    }
    Ok(())
}

#[test]
fn another_prefix_is_another_network() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.put("/elsewhere/config", r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan","VNI":1}}"#)?;
    let mut agent =
        Agent::builder(&cluster.nodes()[0]).etcd(&etcd).arg("--etcd-prefix=/elsewhere/").start()?;
    let subnet = agent.wait_ready()?.subnet.expect("an IPv4 subnet").addr;
    let base = std::net::Ipv4Addr::from_bits(subnet.to_bits() & !0xff);
    let mac = inspect::link(&cluster.nodes()[0], DEVICE)?.mac;
    let own = inspect::Peer { base, public_ip: cluster.nodes()[0].ip(), mac };
    let written = etcd.get(&own.key().replace(PREFIX, "/elsewhere"))?;
    assert_eq!(written, Some(own.value()));
    assert_eq!(etcd.subnets()?, [], "keys below flannel's usual prefix");
    Ok(())
}
