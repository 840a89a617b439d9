//! The backend alloc: a lease and a subnet file, and nothing in the kernel.

use anyhow::ensure;
use flannel_tests::{TestResult, Topology, eventually};

use super::{Bed, FOLLOW, base, lines};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#;

#[test]
fn a_node_takes_its_lease_and_changes_nothing_in_the_kernel() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), CONFIG)?;
    let state = |bed: &Bed| -> anyhow::Result<_> {
        let node = &bed.nodes()[0];
        Ok((
            bed.leases()?,
            node.subnet_env()?,
            lines(node, "ip route show")?,
            lines(node, "ip -br link show")?,
        ))
    };
    eventually("the pod's link is up", FOLLOW, || {
        let links = lines(&bed.nodes()[0], "ip -br link show")?;
        ensure!(!links.iter().any(|link| link.contains("NO-CARRIER")), "{links:?}");
        Ok(())
    })?;
    let before = state(&bed)?;
    assert_eq!(before.1.mtu, 1500);
    let key = format!("{}/subnets/{}-24", flannel_tests::etcd::PREFIX, base(&bed.nodes()[0])?);
    let value = r#"{"PublicIP":"192.168.64.1","PublicIPv6":null}"#;
    assert_eq!(bed.etcd.get(&key)?.as_deref(), Some(value));
    assert!(!before.3.iter().any(|link| link.starts_with("flannel")), "{:?}", before.3);
    let routes: Vec<_> = before.2.iter().filter(|route| route.starts_with("10.5.")).collect();
    assert!(matches!(routes[..], [bridge] if bridge.contains("dev cni0")), "{routes:?}");
    bed.agents[0].restart()?;
    assert_eq!(state(&bed)?, before);
    Ok(())
}
