//! A node keeps its lease, finds it after a restart, and takes it again after a loss.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::traffic::StreamReport;
use flannel_tests::{TestResult, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{Overlay, lines_of};

const SOON: Duration = Duration::from_secs(5);
/// Time limit for the repair of what others have removed.
const REPAIR: Duration = Duration::from_secs(1);
/// Time for which etcd refuses writes.
const FULL: Duration = Duration::from_secs(8);
/// Longest gap in traffic while a lost lease is taken again, or entries are put back.
const PAUSE: Duration = Duration::from_millis(500);
/// The same as a number of datagrams, of which there is one in 2 ms.
const LOST: usize = 250;

fn leases(overlay: &Overlay) -> Result<Vec<(String, String)>> {
    Ok(overlay.etcd.subnets()?.into_iter().map(|entry| (entry.key, entry.value)).collect())
}

#[test]
fn a_restart_finds_the_lease_by_public_ip_alone() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let before = leases(&overlay)?;
    overlay.agents[0].term()?;
    // As after a reboot: the file is on a tmpfs.
    std::fs::remove_file(overlay.nodes()[0].subnet_file())?;
    let env = overlay.agents[0].restart()?;
    assert_eq!(leases(&overlay)?, before);
    assert_eq!(Some(env), overlay.nodes()[0].subnet_env().ok());
    Ok(())
}

#[test]
fn a_restart_takes_the_subnet_in_the_file_when_etcd_has_lost_the_lease() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let before = leases(&overlay)?;
    overlay.agents[0].term()?;
    overlay.etcd.delete(&overlay.peer(0)?.key())?;
    overlay.agents[0].restart()?;
    assert_eq!(leases(&overlay)?, before);
    Ok(())
}

#[test]
fn a_deleted_or_revoked_lease_is_taken_again_on_the_same_subnet() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let before = leases(&overlay)?;
    let streams = overlay.streams()?;
    let key = overlay.peer(0)?.key();
    for revoked in [false, true, true] {
        let entry = overlay.etcd.kv().entry(&key)?.context("no lease")?;
        if revoked {
            overlay.etcd.kv().revoke(entry.lease)?;
        } else {
            overlay.etcd.delete(&key)?;
        }
        eventually("the lease is back", SOON, || {
            ensure!(leases(&overlay)? == before, "{:?}", leases(&overlay)?);
            Ok(())
        })?;
        overlay.wait_joined()?;
    }
    overlay.agents[0].ensure_running()?;
    let errors = lines_of(&overlay.agents[0].log(), "ERROR");
    let lost = |line: &String| line.contains("is lost: the datastore no longer has it");
    assert!(errors.len() == 3 && errors.iter().all(lost), "{errors:#?}");
    // Until the lease is back, its peer has no routes to the node, and drops what the node's pods send.
    for report in [streams.there.stop()?, streams.back.stop()?] {
        assert!(lost_together(&report) < LOST && report.received * 2 > report.sent, "{report:?}");
    }
    Ok(())
}

/// Returns how many datagrams were lost one after the other. Unlike the longest gap, that is not longer on a machine too busy to send.
fn lost_together(report: &StreamReport) -> usize {
    let runs = report.lost.chunk_by(|one, next| *next == one + 1);
    runs.map(<[_]>::len).max().unwrap_or_default()
}

#[test]
fn a_lease_deleted_while_etcd_is_full_is_back_soon_after_and_the_node_is_repaired_meanwhile() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let (before, peer) = (leases(&overlay)?, overlay.peer(1)?);
    let there = overlay.streams()?.there;
    overlay.etcd.fill()?;
    overlay.etcd.delete(&overlay.peer(0)?.key())?;
    let damage = ["ip route flush dev flannel.1", "ip neigh flush dev flannel.1 nud permanent"];
    // For so long that pauses between tries could have become long.
    let start = Instant::now();
    while start.elapsed() < FULL {
        damage.iter().try_for_each(|line| overlay.nodes()[0].exec(line).map(drop))?;
        eventually("the node knows its peer", REPAIR, || {
            inspect::ensure_knows(&overlay.nodes()[0], std::slice::from_ref(&peer))
        })?;
    }
    assert_eq!(leases(&overlay)?.len(), 1, "etcd was not full");
    overlay.etcd.make_room()?;
    eventually("the lease is back", SOON, || {
        ensure!(leases(&overlay)? == before, "{:?}", leases(&overlay)?);
        Ok(())
    })?;
    overlay.wait_joined()?;
    // The node itself keeps sending.
    let there = there.stop()?;
    assert!(there.longest_gap < PAUSE, "{there:?}");
    Ok(())
}

#[test]
fn a_spoilt_lease_is_repaired_without_loss() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let before = leases(&overlay)?;
    let streams = overlay.streams()?;
    let key = overlay.peer(0)?.key();
    for spoilt in ["", "overwritten by mistake", "{}"] {
        overlay.etcd.put(&key, spoilt)?;
        eventually("the lease is repaired", SOON, || {
            ensure!(leases(&overlay)? == before, "{:?}", leases(&overlay)?);
            Ok(())
        })?;
    }
    overlay.agents[0].ensure_running()?;
    streams.ensure_whole()?;
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn a_node_whose_subnet_is_given_to_another_takes_a_new_one_and_keeps_its_peers() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (own, other) = (overlay.peer(0)?, overlay.peer(1)?);
    let intruder = Peer { base: own.base, ..Peer::fictional(99) };
    overlay.etcd.put(&intruder.key(), &intruder.value())?;
    let node = &overlay.nodes()[0];
    eventually("the node has another subnet", SOON, || {
        ensure!(overlay.base(0)? != own.base, "still {}", own.base);
        inspect::ensure_knows(node, &[intruder.clone(), other.clone()])
    })?;
    let moved = overlay.peer(0)?;
    eventually("the other node follows", SOON, || {
        inspect::ensure_knows(&overlay.nodes()[1], &[intruder.clone(), moved.clone()])
    })?;
    let addresses = node.exec(&format!("ip -4 -o addr show dev {}", inspect::DEVICE))?;
    assert_eq!(addresses.matches("inet ").count(), 1, "{addresses}");
    assert!(addresses.contains(&format!("{}/32", moved.base)), "{addresses}");
    assert_eq!(overlay.etcd.get(&moved.key())?, Some(moved.value()));
    assert_eq!(overlay.etcd.get(&intruder.key())?, Some(intruder.value()));
    let errors = lines_of(&overlay.agents[0].log(), "ERROR");
    let [lost, other] = &errors[..] else { panic!("not two lines: {errors:#?}") };
    let (own, moved) = (own.name(), moved.name());
    for (line, expected) in [(lost, [&*own, "192.168.64.99"]), (other, [&own, &moved])] {
        assert!(expected.iter().all(|text| line.contains(text)), "no {expected:?} in {line}");
    }
    Ok(())
}

#[test]
fn a_reservation_is_taken_and_stays_a_reservation() -> TestResult {
    let mut overlay = Overlay::bpf(1)?;
    overlay.agents[0].term()?;
    overlay.etcd.kv().delete_prefix(&format!("{}/subnets/", flannel_tests::etcd::PREFIX))?;
    let own = Peer { base: [10, 5, 33, 0].into(), ..overlay.peer(0)? };
    overlay.etcd.put(&own.key(), &own.value())?;
    let env = overlay.agents[0].restart()?;
    assert_eq!(env.subnet.map(|subnet| subnet.to_string()), Some("10.5.33.1/24".to_owned()));
    let entry = overlay.etcd.kv().entry(&own.key())?.context("the reservation is gone")?;
    assert_eq!((entry.value, entry.lease), (own.value(), 0), "it is no longer a reservation");
    Ok(())
}
