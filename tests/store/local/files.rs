//! Files that come, change and go by any hand, and files that are no leases.

use std::fs;
use std::os::unix::net::UnixListener;
use std::slice;

use anyhow::{Result, ensure};
use flannel_tests::{TestResult, eventually};

use super::{Bed, SOON, stranger};
use crate::overlay::lines_of;

#[test]
fn a_lease_that_is_dropped_in_by_hand_is_followed_until_it_is_deleted() -> TestResult {
    let bed = Bed::shared(2)?;
    let (written, renamed, linked) = (stranger(101), stranger(102), stranger(103));
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
    let old = stranger(104);
    bed.store().put(&old.name(), &old.value())?;
    bed.ensure_known(slice::from_ref(&old))?;
    let new = crate::inspect::Peer { base: old.base, ..stranger(105) };
    bed.store().put(&new.name(), &new.value())?;
    bed.ensure_known(&[new])?;
    Ok(())
}

/// What a folder can hold beside leases: its name, and a word of the warning.
const RUBBISH: [(&str, &str); 8] = [
    ("README", "no subnet"),
    ("10.5.110.0-24~", "no subnet"),
    ("10.5.111.0-24", "no lease"),
    ("10.5.112.0-24", "no lease"),
    ("10.5.113.0-24", "no lease"),
    ("10.5.114.0-24", "no lease"),
    ("10.5.115.0-24", "no lease"),
    ("10.6.0.0-24", "outside the network"),
];

fn litter(bed: &Bed) -> Result<()> {
    let value = stranger(110).value();
    let file = |name| bed.store().file(name);
    bed.store().put("README", "Hands off.\n")?;
    bed.store().put("10.5.110.0-24~", &value)?;
    bed.store().put("10.5.111.0-24", &value[..value.len() / 2])?;
    bed.store().put("10.5.112.0-24", "")?;
    fs::create_dir(file("10.5.113.0-24"))?;
    nix::unistd::mkfifo(&file("10.5.114.0-24"), nix::sys::stat::Mode::S_IRWXU)?;
    drop(UnixListener::bind(file("10.5.115.0-24"))?);
    bed.store().put("10.6.0.0-24", &value)?;
    // Nobody is told of these.
    bed.store().put(".10.5.116.0-24.swp", "b0VIM 9.1")?;
    bed.store().put(".10.5.117.0-24.Xq3fZa", &value)?;
    std::os::unix::fs::symlink("nowhere", file("10.5.118.0-24"))?;
    Ok(())
}

/// One warning for each piece, with its name and the reason, and none beside.
fn ensure_named(log: &str) -> Result<()> {
    let warnings = lines_of(log, "WARN");
    ensure!(warnings.len() == RUBBISH.len(), "{} warnings: {warnings:#?}", warnings.len());
    for (name, reason) in RUBBISH {
        let named =
            |line: &&String| line.contains(&format!("lease {name} not used")) && line.contains(reason);
        ensure!(warnings.iter().filter(named).count() == 1, "{name} ({reason}): {warnings:#?}");
    }
    Ok(())
}

#[test]
fn what_is_no_lease_is_named_once_and_harms_nobody() -> TestResult {
    let mut bed = Bed::shared(2)?;
    let streams = bed.streams()?;
    // All at once, so that no file is seen before it is finished.
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGSTOP))?;
    litter(&bed)?;
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGCONT))?;
    let late = stranger(119);
    bed.store().put(&late.name(), &late.value())?;
    bed.ensure_known(slice::from_ref(&late))?;
    for agent in &bed.agents {
        eventually("all is named", SOON, || ensure_named(&agent.log()))?;
    }
    streams.ensure_whole()?;
    // Nor does it keep a node from starting.
    bed.agents[0].restart()?;
    bed.ensure_known(&[late])?;
    Ok(())
}

#[test]
fn a_lease_that_is_half_written_keeps_its_last_value_until_it_is_whole() -> TestResult {
    let bed = Bed::shared(2)?;
    let (old, other) = (stranger(120), stranger(121));
    let new = crate::inspect::Peer { mac: "c6:d2:32:6f:8f:ff".to_owned(), ..old.clone() };
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
fn changes_that_are_too_many_to_be_told_are_seen_all_the_same() -> TestResult {
    let bed = Bed::shared(2)?;
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGSTOP))?;
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    // The kernel counts equal events in a row as one.
    for number in 0..=limit / 2 {
        fs::File::create(bed.store().file([".one", ".other"][number % 2]))?;
    }
    let new = stranger(122);
    bed.store().put(&new.name(), &new.value())?;
    bed.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGCONT))?;
    bed.ensure_known(&[new])?;
    Ok(())
}
