//! A folder that is missing at first, has no configuration, is deleted or replaced.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;
use std::{fs, io, slice};

use anyhow::{Result, ensure};
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, Cluster, Datastore as _, TestResult, eventually};

use super::{Bed, SOON};
use crate::inspect::Peer;
use crate::overlay::{NETWORK, lines_of};

/// Time for which the folder is missing under traffic; the agents look for it several times.
const AWAY: Duration = Duration::from_millis(500);
/// Time limit to find the folder again: more than the longest pause between two attempts.
const BACK: Duration = Duration::from_secs(8);

#[test]
fn an_agent_without_its_folder_logs_it_and_waits() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.local_store("leases")?;
    fs::remove_dir(store.dir())?;
    let mut agent = Agent::builder(&cluster.nodes()[0]).store(&store).start()?;
    let dir = store.dir().display().to_string();
    eventually("the agent logs what is missing", SOON, || {
        let errors = lines_of(&agent.log(), "ERROR");
        let [error] = &errors[..] else { anyhow::bail!("not one line: {errors:#?}") };
        for said in ["no network config", &format!("mkdir -p {dir}"), "trying again"] {
            ensure!(error.contains(said), "no {said:?} in {error}");
        }
        Ok(())
    })?;
    fs::create_dir(store.dir())?;
    store.configure("Network: 10.5.0.0/16")?;
    eventually("the agent logs what is wrong", SOON, || {
        let errors = lines_of(&agent.log(), "ERROR");
        let last = errors.last().map_or("", String::as_str);
        ensure!(last.contains(&format!("{dir}/config")) && last.contains("not a JSON object"), "{errors:#?}");
        Ok(())
    })?;
    store.configure(NETWORK)?;
    agent.wait_ready()?;
    assert_eq!(lines_of(&agent.log(), "ERROR").len(), 2, "each problem is logged once: {}", agent.log());
    Ok(())
}

fn ensure_pods_talk(bed: &Bed) -> Result<()> {
    throughout("pods reach each other", AWAY, || ping(&bed.pods[0], bed.pods[1].ip()).map(drop))
}

#[test]
fn a_replaced_folder_is_followed_without_loss() -> TestResult {
    let bed = Bed::shared(2)?;
    let streams = bed.streams()?;
    let (dir, away) = (bed.store().dir(), bed.store().dir().with_extension("away"));
    fs::rename(dir, &away)?;
    ensure_pods_talk(&bed)?;
    // Another folder with the same leases and one more.
    let new = Peer::fictional(130);
    fs::write(away.join("subnets").join(new.name()), new.value())?;
    let copy = dir.with_extension("copy");
    copy_folder(&away, &copy)?;
    fs::rename(&copy, dir)?;
    eventually("the new folder is found", BACK, || bed.ensure_known(slice::from_ref(&new)))?;
    let later = Peer::fictional(131);
    bed.store().put(&later.name(), &later.value())?;
    bed.ensure_known(&[new, later])?;
    streams.ensure_whole()?;
    for agent in &bed.agents {
        let warnings = lines_of(&agent.log(), "WARN");
        assert!(matches!(&warnings[..], [one] if one.contains("no network config")), "{warnings:#?}");
        assert!(agent.log().contains("watching the leases again"), "{}", agent.log());
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.join("subnets"))?;
    fs::copy(from.join("config"), to.join("config"))?;
    for file in fs::read_dir(from.join("subnets"))? {
        let file = file?;
        fs::copy(file.path(), to.join("subnets").join(file.file_name()))?;
    }
    Ok(())
}

/// Exchanges two folders at once. `nix` has the call for glibc alone.
fn exchange(one: &Path, other: &Path) -> Result<()> {
    let (one, other) =
        (CString::new(one.as_os_str().as_bytes())?, CString::new(other.as_os_str().as_bytes())?);
    let (here, exchange) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both paths end with NUL and live through the call.
    let done =
        unsafe { libc::syscall(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), exchange) };
    ensure!(done == 0, "exchange two folders: {}", io::Error::last_os_error());
    Ok(())
}

#[test]
fn an_exchanged_folder_is_followed_at_once() -> TestResult {
    let bed = Bed::shared(2)?;
    let streams = bed.streams()?;
    let (new, later) = (Peer::fictional(133), Peer::fictional(134));
    let (dir, copy) = (bed.store().dir(), bed.store().dir().with_extension("copy"));
    copy_folder(dir, &copy)?;
    fs::write(copy.join("subnets").join(new.name()), new.value())?;
    exchange(dir, &copy)?;
    bed.ensure_known(slice::from_ref(&new))?;
    bed.store().put(&later.name(), &later.value())?;
    bed.ensure_known(&[new, later])?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn a_folder_that_is_deleted_and_created_again_gets_the_same_leases() -> TestResult {
    let bed = Bed::shared(2)?;
    let before = bed.store().leases()?;
    // Repeated: while there is a configuration, an agent may write its lease again at once.
    eventually("the folder is gone", SOON, || Ok(fs::remove_dir_all(bed.store().dir())?))?;
    let new = Peer::fictional(132);
    fs::create_dir(bed.store().dir())?;
    bed.store().put(&new.name(), &new.value())?;
    bed.store().configure(NETWORK)?;
    eventually("all leases are back", BACK, || {
        let mut leases = bed.store().leases()?;
        leases.remove(&new.name());
        ensure!(leases == before, "{leases:?}");
        Ok(())
    })?;
    bed.ensure_known(&[new])?;
    ping(&bed.pods[0], bed.pods[1].ip())?;
    Ok(())
}

#[test]
fn a_deleted_folder_of_leases_is_created_again() -> TestResult {
    let bed = Bed::shared(2)?;
    let before = bed.store().leases()?;
    eventually("the folder is gone", SOON, || Ok(fs::remove_dir_all(bed.store().subnets())?))?;
    eventually("all leases are back", BACK, || {
        ensure!(bed.store().leases()? == before, "{:?}", bed.store().leases()?);
        Ok(())
    })?;
    bed.ensure_known(&[])?;
    Ok(())
}
