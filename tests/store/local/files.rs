//! Files that any program writes, changes and removes, and files that are not leases.

use std::fs;
use std::os::unix::net::UnixListener;
use std::slice;

use anyhow::{Result, ensure};
use flannel_tests::{TestResult, eventually};

use super::{Bed, SOON};
use crate::inspect::Peer;
use crate::overlay::lines_of;

#[test]
fn a_lease_written_by_hand_is_followed_until_it_is_deleted() -> TestResult {
    let bed = Bed::shared(2)?;
    let (written, renamed, linked) = (Peer::fictional(101), Peer::fictional(102), Peer::fictional(103));
    let streams = bed.streams()?;
    bed.store().put(&written.name(), &written.value())?;
    bed.ensure_known(slice::from_ref(&written))?;
    fs::write(bed.store().dir().join("new"), renamed.value())?;
    fs::rename(bed.store().dir().join("new"), bed.store().file(&renamed.name()))?;
    bed.ensure_known(&[written.clone(), renamed.clone()])?;
    fs::write(bed.store().dir().join("elsewhere"), linked.value())?;
    std::os::unix::fs::symlink("../elsewhere", bed.store().file(&linked.name()))?;
    bed.ensure_known(&[written.clone(), renamed.clone(), linked.clone()])?;
    bed.store().delete(&renamed.name())?;
    bed.ensure_known(&[written.clone(), linked.clone()])?;
    fs::rename(bed.store().file(&written.name()), bed.store().file(".away"))?;
    bed.store().delete(&linked.name())?;
    bed.ensure_known(&[])?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn a_lease_whose_text_changes_is_followed() -> TestResult {
    let bed = Bed::shared(2)?;
    let old = Peer::fictional(104);
    bed.store().put(&old.name(), &old.value())?;
    bed.ensure_known(slice::from_ref(&old))?;
    let new = Peer { base: old.base, ..Peer::fictional(105) };
    bed.store().put(&new.name(), &new.value())?;
    bed.ensure_known(&[new])?;
    Ok(())
}

/// Names of files that are not leases, and a part of the warning about each.
const NOT_LEASES: [(&str, &str); 8] = [
    ("README", "no subnet"),
    ("10.5.110.0-24~", "no subnet"),
    ("10.5.111.0-24", "no lease"),
    ("10.5.112.0-24", "no lease"),
    ("10.5.113.0-24", "no lease"),
    ("10.5.114.0-24", "no lease"),
    ("10.5.115.0-24", "no lease"),
    ("10.6.0.0-24", "outside the network"),
];

fn write_other_files(bed: &Bed) -> Result<()> {
    let value = Peer::fictional(110).value();
    let file = |name| bed.store().file(name);
    bed.store().put("README", "Hands off.\n")?;
    bed.store().put("10.5.110.0-24~", &value)?;
    bed.store().put("10.5.111.0-24", &value[..value.len() / 2])?;
    bed.store().put("10.5.112.0-24", "")?;
    fs::create_dir(file("10.5.113.0-24"))?;
    nix::unistd::mkfifo(&file("10.5.114.0-24"), nix::sys::stat::Mode::S_IRWXU)?;
    drop(UnixListener::bind(file("10.5.115.0-24"))?);
    bed.store().put("10.6.0.0-24", &value)?;
    // These are ignored without a warning.
    bed.store().put(".10.5.116.0-24.swp", "b0VIM 9.1")?;
    bed.store().put(".10.5.117.0-24.Xq3fZa", &value)?;
    std::os::unix::fs::symlink("nowhere", file("10.5.118.0-24"))?;
    Ok(())
}

/// Checks that the log has one warning for each file, with its name and the reason, and no other.
fn ensure_named(log: &str) -> Result<()> {
    let warnings = lines_of(log, "WARN");
    ensure!(warnings.len() == NOT_LEASES.len(), "{} warnings: {warnings:#?}", warnings.len());
    for (name, reason) in NOT_LEASES {
        let named =
            |line: &&String| line.contains(&format!("lease {name} not used")) && line.contains(reason);
        ensure!(warnings.iter().filter(named).count() == 1, "{name} ({reason}): {warnings:#?}");
    }
    Ok(())
}

#[test]
fn files_that_are_not_leases_are_logged_once_and_ignored() -> TestResult {
    let mut bed = Bed::shared(2)?;
    let streams = bed.streams()?;
    // All at once, so that no file is read before it is complete.
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGSTOP))?;
    write_other_files(&bed)?;
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGCONT))?;
    let late = Peer::fictional(119);
    bed.store().put(&late.name(), &late.value())?;
    bed.ensure_known(slice::from_ref(&late))?;
    for agent in &bed.agents {
        eventually("all files are logged", SOON, || ensure_named(&agent.log()))?;
    }
    streams.ensure_whole()?;
    // These files do not prevent a start either.
    bed.agents[0].restart()?;
    bed.ensure_known(&[late])?;
    Ok(())
}

#[test]
fn a_half_written_lease_keeps_its_last_value_until_it_is_complete() -> TestResult {
    let bed = Bed::shared(2)?;
    let (old, other) = (Peer::fictional(120), Peer::fictional(121));
    let new = Peer { mac: "c6:d2:32:6f:8f:ff".to_owned(), ..old.clone() };
    bed.store().put(&old.name(), &old.value())?;
    bed.ensure_known(slice::from_ref(&old))?;
    bed.store().put(&new.name(), &new.value()[..40])?;
    bed.store().put(&other.name(), &other.value())?;
    bed.ensure_known(&[old, other.clone()])?;
    bed.store().put(&new.name(), &new.value())?;
    bed.ensure_known(&[new, other])?;
    for agent in &bed.agents {
        let warnings = lines_of(&agent.log(), "WARN");
        assert!(matches!(&warnings[..], [one] if one.contains("10.5.120.0-24 not used")), "{warnings:?}");
    }
    Ok(())
}

#[test]
fn changes_are_seen_when_the_inotify_queue_overflows() -> TestResult {
    let bed = Bed::shared(2)?;
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGSTOP))?;
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    // Two names in turn: the kernel merges equal events in a row.
    for number in 0..=limit / 2 {
        fs::File::create(bed.store().file([".one", ".other"][number % 2]))?;
    }
    let new = Peer::fictional(122);
    bed.store().put(&new.name(), &new.value())?;
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGCONT))?;
    bed.ensure_known(&[new])?;
    Ok(())
}
