//! Nodes whose annotations cannot be used: one line for each, and no other effect.

use flannel_tests::TestResult;

use super::bed::{Bed, NETLINK, as_flanneld, ensure_not_logged, register};
use crate::inspect::Peer;
use crate::overlay::{lines_of, wait_logged};

const GOOD: &str = r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:09"}"#;

/// Name of the node, podCIDR, backend-data, public-ip, and a part of the logged reason.
const BAD: [(&str, &str, &str, &str, &str); 6] = [
    ("garbage", "10.5.100.0/24", "not JSON", "192.168.64.9", "VtepMAC"),
    ("empty", "10.5.101.0/24", "", "192.168.64.9", "VtepMAC"),
    ("no-mac", "10.5.102.0/24", r#"{"VNI":1}"#, "192.168.64.9", "VtepMAC"),
    ("other-vni", "10.5.103.0/24", r#"{"VNI":7,"VtepMAC":"c6:d2:32:6f:8f:09"}"#, "192.168.64.9", "VNI"),
    ("no-address", "10.5.104.0/24", GOOD, "x", "PublicIP"),
    ("outside", "10.6.0.0/24", GOOD, "192.168.64.9", "outside the network"),
];

#[test]
fn each_bad_node_is_logged_once_by_name_and_good_ones_work() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let streams = bed.streams()?;
    for (name, cidr, data, public_ip, _) in BAD {
        bed.store.add_annotated_node(name, &[cidr], &as_flanneld(data, public_ip))?;
    }
    let good = Peer::fictional(120);
    register(&bed.store, "good", &good)?;
    bed.wait_joined(std::slice::from_ref(&good))?;
    for agent in &bed.agents {
        for (name, _, _, _, reason) in BAD {
            let name = bed.store.name_of(name);
            wait_logged(agent, "WARN", &[&name, reason])?;
            let lines = lines_of(&agent.log(), "WARN");
            let count = lines.iter().filter(|line| line.contains(&name)).count();
            assert_eq!(count, 1, "lines with {name}: {lines:#?}");
        }
    }
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn nodes_without_flannels_annotations_are_none_of_its_business() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    bed.store.add_node("bare", &["10.5.100.0/24"])?;
    bed.store.add_node("bare-without-cidr", &[])?;
    bed.store.add_annotated_node("unmanaged", &["10.5.101.0/24"], &as_flanneld(GOOD, "192.168.64.9"))?;
    bed.store.annotate("unmanaged", &[("kube-subnet-manager", Some("false"))])?;
    bed.ensure_follows()?;
    for agent in &bed.agents {
        ensure_not_logged(agent, "WARN", &bed.store.name_of("bare"))?;
    }
    Ok(())
}
