//! Modes of the files that the agent writes, and folders that other users have made before.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::abi;
use flannel_tests::wait::patiently;
use flannel_tests::{Agent, Cluster, Datastore as _, TestResult};

use super::USER;
use crate::overlay::{NETWORK, lines_of};

/// Time limit for files that READY does not wait for.
const WRITING: Duration = Duration::from_secs(10);
/// Has the agent set all modes itself.
const WITHOUT_UMASK: &str = "umask 0; exec \"$@\"";

/// Returns the modes of all that is in a folder, by path below it.
fn modes(folder: &Path) -> Result<BTreeMap<String, u32>> {
    let mut modes = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let (name, found) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
        if found.is_dir() {
            modes.extend(modes_below(&entry.path(), &name)?);
        }
        modes.insert(name, found.mode() & 0o7777);
    }
    Ok(modes)
}

fn modes_below(folder: &Path, name: &str) -> Result<BTreeMap<String, u32>> {
    Ok(modes(folder)?.into_iter().map(|(below, mode)| (format!("{name}/{below}"), mode)).collect())
}

/// Fails unless folders of pins are 0700 and pins 0600.
fn ensure_private(bpffs: &Path) -> Result<()> {
    let pins = bpffs.join(abi::PIN_DIR);
    assert_eq!(fs::metadata(&pins)?.mode() & 0o7777, 0o700, "{}", pins.display());
    let modes = modes(&pins)?;
    assert!(modes.len() > 10, "there are programs, maps and links: {modes:?}");
    for (name, mode) in modes {
        let expected = if pins.join(&name).is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{name}");
    }
    Ok(())
}

#[test]
fn files_and_pins_are_for_the_agents_user_alone() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let node = &cluster.nodes()[0];
    let agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=bpf").by_script(WITHOUT_UMASK);
    let mut agent = agent.start()?;
    agent.wait_ready()?;
    ensure_private(node.bpffs()?)?;
    let written = ["subnet.last-known.json", "subnet.sock", "subnet.feed.sock"];
    let files = patiently("the agent has written its files", WRITING, || {
        let files = modes(node.dir())?;
        ensure!(written.iter().all(|name| files.contains_key(*name)), "{files:?}");
        Ok(files)
    })?;
    for name in written {
        assert_eq!(files[name], 0o600, "{name}");
    }
    // flannel's mode: CNI plugins and Docker read it.
    assert_eq!(files["subnet.env"], 0o644);
    let known = [
        "subnet.env",
        "subnet.last-known.json",
        "subnet.sock",
        "subnet.feed.sock",
        "agent.log",
        "notify",
        "bpf",
    ];
    let others = files.keys().filter(|name| !known.contains(&name.split('/').next().unwrap_or_default()));
    assert_eq!(others.collect::<Vec<_>>(), [""; 0], "files that nobody expects");
    // An earlier version made the folders readable.
    for folder in ["", "/1"] {
        let folder = node.bpffs()?.join(format!("{}{folder}", abi::PIN_DIR));
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    agent.restart()?;
    ensure_private(node.bpffs()?)?;
    Ok(())
}

#[test]
fn no_other_user_can_hold_the_lock_of_a_folder_of_leases() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.local_store("leases")?;
    store.configure(NETWORK)?;
    let lock = store.dir().join("lock");
    // As an earlier version made it.
    fs::write(&lock, "")?;
    fs::set_permissions(&lock, Permissions::from_mode(0o644))?;
    for _ in 0..2 {
        let agent = Agent::builder(&cluster.nodes()[0]).store(&store).arg("--dataplane=netlink");
        let mut agent = agent.by_script(WITHOUT_UMASK).start()?;
        agent.wait_ready()?;
        assert_eq!(fs::metadata(&lock)?.mode() & 0o7777, 0o600);
        agent.term()?;
        fs::remove_file(&lock)?;
    }
    Ok(())
}

#[test]
fn pins_are_not_kept_in_a_folder_of_another_user() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let node = &cluster.nodes()[0];
    // Where the BPF filesystem is writable for all users, any of them can have been there first.
    let folder = node.bpffs()?.join(abi::PIN_DIR);
    fs::create_dir(&folder)?;
    chown(&folder, Some(USER), Some(USER))?;
    let mut agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=auto").start()?;
    agent.wait_ready()?;
    let warnings = lines_of(&agent.log(), "WARN");
    let said = format!("{} belongs to the user {USER}", folder.display());
    assert!(warnings.len() == 1 && warnings[0].contains(&said), "{warnings:#?}");
    assert!(modes(&folder)?.is_empty(), "{:?}", modes(&folder)?);
    agent.kill()?;
    fs::remove_dir(&folder)?;
    agent.restart()?;
    ensure_private(node.bpffs()?)?;
    Ok(())
}
