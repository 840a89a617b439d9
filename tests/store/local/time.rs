//! Leases expire 24 h after the modification time of their file; reservations do not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::slice;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use flannel_tests::{TestResult, eventually};

use super::{Bed, SOON};
use crate::inspect::Peer;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Time limit to notice an expired lease. The agent checks every 10 s.
const NOTICED: Duration = Duration::from_secs(20);

fn make_lease(bed: &Bed, name: &str) -> Result<()> {
    Ok(fs::set_permissions(bed.store().file(name), Permissions::from_mode(0o444))?)
}

#[test]
fn an_expired_lease_is_removed_and_a_renewed_one_comes_back() -> TestResult {
    let bed = Bed::shared(2)?;
    let (lease, reservation) = (Peer::fictional(140), Peer::fictional(141));
    for peer in [&lease, &reservation] {
        bed.store().put(&peer.name(), &peer.value())?;
    }
    make_lease(&bed, &lease.name())?;
    bed.ensure_known(&[lease.clone(), reservation.clone()])?;
    for peer in [&lease, &reservation] {
        bed.store().set_time(&peer.name(), SystemTime::now() - 25 * HOUR)?;
    }
    bed.ensure_known(slice::from_ref(&reservation))?;
    bed.store().set_time(&lease.name(), SystemTime::now())?;
    bed.ensure_known(&[lease.clone(), reservation.clone()])?;
    // It expires without a change of its file.
    bed.store().set_time(&lease.name(), SystemTime::now() + Duration::from_secs(2) - DAY)?;
    eventually("a lease expires without an event", NOTICED, || {
        bed.ensure_known(slice::from_ref(&reservation))
    })?;
    Ok(())
}

#[test]
fn a_start_renews_the_lease_and_does_not_change_a_reservation() -> TestResult {
    let mut bed = Bed::shared(2)?;
    let (lease, reservation) = (bed.peer(0)?.name(), bed.peer(1)?.name());
    let reserved = bed.store().file(&reservation);
    fs::set_permissions(&reserved, Permissions::from_mode(0o644))?;
    bed.agents.iter_mut().try_for_each(|agent| agent.term().map(drop))?;
    let old = SystemTime::now() - 23 * HOUR;
    for name in [&lease, &reservation] {
        bed.store().set_time(name, old)?;
    }
    bed.agents.iter_mut().try_for_each(|agent| agent.restart().map(drop))?;
    let age = fs::metadata(bed.store().file(&lease))?.modified()?.elapsed()?;
    assert!(age < HOUR, "the lease is {age:?} old");
    assert_eq!(fs::metadata(reserved)?.modified()?, old, "the reservation's time");
    Ok(())
}

#[test]
fn a_node_renews_its_lease_after_it_has_expired() -> TestResult {
    let bed = Bed::shared(2)?;
    let (before, own) = (bed.store().leases()?, bed.peer(0)?.name());
    let streams = bed.streams()?;
    bed.store().set_time(&own, SystemTime::now() - 25 * HOUR)?;
    eventually("the lease is renewed", SOON, || {
        let age = fs::metadata(bed.store().file(&own))?.modified()?.elapsed()?;
        ensure!(age < HOUR, "it is {age:?} old");
        Ok(())
    })?;
    bed.ensure_known(&[])?;
    assert_eq!(bed.store().leases()?, before);
    // Only the node's own stream: its peer may have removed the route until the lease was back.
    crate::overlay::ensure_whole(&streams.there.stop()?)?;
    Ok(())
}
