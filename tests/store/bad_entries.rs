//! Entries that are not leases, or not for this network: each is logged once and has no other effect.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{TestResult, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{Overlay, lines_of};

const SOON: Duration = Duration::from_secs(5);
const GOOD: &str = r#"{"PublicIP":"192.168.64.9","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:09"}}"#;

/// Last part of the key, value, and a part of the logged reason.
const BAD: [(&str, &str, &str); 12] = [
    ("10.5.100.0-24", "not JSON", "no lease"),
    ("10.5.101.0-24", "", "no lease"),
    ("10.5.102.0-24", "[1,2]", "no lease"),
    ("10.6.0.0-24", GOOD, "outside the network"),
    ("no-subnet", GOOD, "no subnet"),
    ("10.5.103.0", GOOD, "no subnet"),
    ("10.5.104.1-24", GOOD, "host bits"),
    ("10.5.105.0-24", r#"{"PublicIP":"192.168.64.9","BackendType":"host-gw"}"#, "host-gw"),
    ("10.5.106.0-24", r#"{"PublicIP":"192.168.64.9","BackendType":"vxlan"}"#, "VtepMAC"),
    ("10.5.107.0-24", r#"{"PublicIP":"x","BackendType":"vxlan"}"#, "no lease"),
    (
        "10.5.108.0-24",
        r#"{"PublicIP":"192.168.64.9","BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"c6:d2:32:6f:8f:09"}}"#,
        "VNI",
    ),
    (
        "10.5.109.0-24",
        r#"{"PublicIP":"0.0.0.0","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:09"}}"#,
        "PublicIP",
    ),
];

fn entry(key: &str, value: &str) -> (String, String) {
    (format!("{PREFIX}/subnets/{key}"), value.to_owned())
}

/// Waits until both nodes know each other and these other nodes.
fn ensure_known(overlay: &Overlay, others: &[Peer]) -> Result<()> {
    for (node, other) in [(0, 1), (1, 0)] {
        let peers = [&[overlay.peer(other)?], others].concat();
        eventually("good leases are followed", SOON, || {
            inspect::ensure_knows(&overlay.nodes()[node], &peers)
        })?;
    }
    Ok(())
}

/// Checks that the log has one warning for each bad entry, with its key and the reason, and no other.
fn ensure_named(log: &str) -> Result<()> {
    let warnings = lines_of(log, "WARN");
    ensure!(
        warnings.len() == BAD.len(),
        "{} warnings for {} entries: {warnings:#?}",
        warnings.len(),
        BAD.len()
    );
    for (key, _, reason) in BAD {
        let named = |line: &&String| line.contains(&format!("lease {key} not used")) && line.contains(reason);
        ensure!(warnings.iter().filter(named).count() == 1, "{key} ({reason}): {warnings:#?}");
    }
    Ok(())
}

#[test]
fn each_bad_entry_is_logged_once_and_good_ones_work() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    let [good, late] = [Peer::fictional(120), Peer::fictional(121)];
    let mut entries: Vec<_> = BAD.iter().map(|(key, value, _)| entry(key, value)).collect();
    entries.push((good.key(), good.value()));
    overlay.etcd.kv().put_all(&entries)?;
    ensure_known(&overlay, std::slice::from_ref(&good))?;
    // Written again, the same entries are not logged again.
    overlay.etcd.kv().put_all(&entries)?;
    overlay.etcd.put(&late.key(), &late.value())?;
    ensure_known(&overlay, &[good, late])?;
    overlay.agents.iter().try_for_each(|agent| ensure_named(&agent.log()))?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn an_agent_starts_among_bad_entries() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let entries: Vec<_> = BAD.iter().map(|(key, value, _)| entry(key, value)).collect();
    overlay.agents[0].term()?;
    overlay.etcd.kv().put_all(&entries)?;
    overlay.agents[0].restart()?;
    ensure_known(&overlay, &[])?;
    eventually("all are logged", SOON, || ensure_named(&overlay.agents[0].log()))?;
    Ok(())
}

#[test]
fn a_good_lease_that_turns_bad_keeps_its_last_good_value() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (good, later) = (Peer::fictional(122), Peer::fictional(123));
    overlay.etcd.put(&good.key(), &good.value())?;
    ensure_known(&overlay, std::slice::from_ref(&good))?;
    overlay.etcd.put(&good.key(), "overwritten by mistake")?;
    overlay.etcd.put(&later.key(), &later.value())?;
    ensure_known(&overlay, &[good.clone(), later.clone()])?;
    overlay.etcd.delete(&good.key())?;
    ensure_known(&overlay, &[later])?;
    Ok(())
}

#[test]
fn a_claim_to_a_leased_subnet_is_logged_once_and_ignored() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    let base = overlay.base(0)?;
    let half = std::net::Ipv4Addr::from_bits(base.to_bits() + 128);
    let rivals = [format!("{base}-25"), format!("{half}-25"), format!("{base}-24&fd44::-64")];
    let beside =
        ["subnets", "subnet/10.5.99.0-24", "subnetsx/10.5.99.0-24", "x/subnets/10.5.99.0-24", "10.5.99.0-24"];
    for _ in 0..2 {
        let claims = rivals.iter().map(|key| entry(key, GOOD));
        let beside = beside.iter().map(|key| (format!("{PREFIX}/{key}"), GOOD.to_owned()));
        overlay.etcd.kv().put_all(&claims.chain(beside).collect::<Vec<_>>())?;
    }
    let late = Peer::fictional(121);
    overlay.etcd.put(&late.key(), &late.value())?;
    ensure_known(&overlay, &[late])?;
    let conflicts = ["this node's own subnet".to_owned(), format!("the lease {base}-24")];
    for (agent, conflict) in overlay.agents.iter().zip(conflicts) {
        let warnings = lines_of(&agent.log(), "WARN");
        assert_eq!(warnings.len(), rivals.len(), "{warnings:#?}");
        for key in &rivals {
            let named =
                |line: &&String| line.contains(&format!("lease {key} not used")) && line.contains(&conflict);
            assert_eq!(warnings.iter().filter(named).count(), 1, "{key}: {warnings:#?}");
        }
    }
    streams.ensure_whole()?;
    Ok(())
}
