//! Repairs are counted by what was damaged, and nothing else is.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::{Node, TestResult, Topology, eventually};

use crate::endpoint::{Figures, with_endpoint};
use crate::inspect::DEVICE;
use crate::overlay::Overlay;

/// Time limit for a repair: others' changes of the subnet file are looked for every 10 s.
const SOON: Duration = Duration::from_secs(20);
/// Repairs of entries, which a repair of something else must not count.
const ENTRIES: [&str; 4] = ["route", "nexthop", "neighbour", "fdb"];

/// Returns how often such an object was repaired.
fn repairs(node: &Node, object: &str) -> Result<f64> {
    Figures::of(node)?.get(&format!("flannel_repairs_total{{object=\"{object}\"}}"))
}

/// Returns how many entries were repaired.
fn entries(node: &Node) -> Result<f64> {
    ENTRIES.into_iter().map(|object| repairs(node, object)).sum()
}

#[test]
fn each_repair_is_counted_under_what_was_damaged() -> TestResult {
    let overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, |agent| {
        with_endpoint(agent.without_tcx())
    })?;
    overlay.wait_plugged()?;
    let (node, peer) = (&overlay.nodes()[0], overlay.peer(1)?);
    let all = || Figures::of(node)?.sum("flannel_repairs_total");
    assert_eq!(all()?, 0.0, "a start repairs nothing");
    let (base, mac) = (peer.base, &peer.mac);
    for (object, damage, counted) in [
        ("route", format!("ip route del {base}/24"), 1.0),
        ("neighbour", format!("ip neigh del {base} dev {DEVICE}"), 1.0),
        ("fdb", format!("bridge fdb del {mac} dev {DEVICE}"), 1.0),
        ("programs", format!("tc filter del dev {DEVICE} egress"), 0.0),
        ("firewall", "iptables -D FLANNEL-FWD 1".to_owned(), 0.0),
        ("subnet-file", format!("rm {}", node.subnet_file().display()), 0.0),
    ] {
        let before = (repairs(node, object)?, entries(node)?, all()?);
        node.exec(&damage)?;
        eventually(&damage, SOON, || {
            let now = repairs(node, object)?;
            ensure!(now > before.0, "{object} was repaired {now} times");
            Ok(())
        })?;
        overlay.wait_joined()?;
        assert_eq!(entries(node)? - before.1, counted, "entries after {damage}");
        assert_eq!(all()? - before.2, 1.0, "repairs after {damage}");
    }
    node.exec(&format!("ip link del {DEVICE}"))?;
    eventually("the device is made again", SOON, || {
        ensure!(repairs(node, "device")? == 1.0 && entries(node)? >= 6.0, "{}", all()?);
        Ok(())
    })?;
    Ok(())
}
