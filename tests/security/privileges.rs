//! An agent without root, and what each capability is for.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::abi;
use flannel_tests::agent::agent_binary;
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, Node, TestResult, Topology, eventually};

use super::USER;
use crate::inspect;
use crate::network::capabilities::FULL;
use crate::network::firewall::tools::installed;
use crate::overlay::{NETWORK, Overlay, lines_of};

const SOON: Duration = Duration::from_secs(10);
/// Programs on the uplink, the vxlan device and a pod's port.
const PROGRAMS: usize = 5;

/// Runs `prepare-node` for the user, as root.
fn prepare(node: &Node) -> Result<()> {
    let mut command = node.netns().command(agent_binary()?);
    command.arg("prepare-node").arg("--bpffs").arg(node.bpffs()?).args(["--owner", &USER.to_string()]);
    finish(&mut command, "", LIMIT).map(drop)
}

/// Fails unless the process has this user and these capabilities in each of its sets.
fn ensure_unprivileged(agent: &Agent, capabilities: usize) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).context("no such line");
    ensure!(value("Uid:")?.split_whitespace().all(|uid| uid == USER.to_string()), "{status}");
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let bits = u64::from_str_radix(value(set)?.trim(), 16)?;
        ensure!(bits.count_ones() as usize == capabilities, "{set} {bits:x}");
    }
    Ok(())
}

#[test]
fn a_user_without_privileges_runs_the_agent_with_four_capabilities() -> TestResult {
    let cluster = Cluster::build(Topology::segment(2))?;
    cluster.nodes().iter().try_for_each(prepare)?;
    let mut overlay = Overlay::launch_on(NETWORK, cluster, &["--dataplane=bpf"; 2], 1, |agent| {
        agent.arg("--ip-masq").as_user(USER, &FULL).expect("a user runs it")
    })?;
    let reach_each_other = |overlay: &Overlay| {
        let (one, other) = overlay.two_pods();
        eventually("pods reach each other", SOON, || ping(one, other.ip()).and(ping(other, one.ip())))
            .map(drop)
    };
    reach_each_other(&overlay)?;
    for (node, agent) in overlay.nodes().iter().zip(&overlay.agents) {
        ensure_unprivileged(agent, FULL.len())?;
        inspect::attached_all(node, PROGRAMS)?;
        let (sent, received) = inspect::carried(node)?;
        assert!(sent > 0 && received > 0, "BPF carries: {sent} sent, {received} received");
        assert!(node.exec("iptables -t nat -S")?.contains("FLANNEL-POSTRTG"), "{}", agent.log());
        assert_eq!(fs::metadata(node.bpffs()?.join(abi::PIN_DIR))?.uid(), USER);
    }
    // It goes on with its own pins, and repairs what others remove.
    overlay.agents[0].restart()?;
    let route = format!("ip route del {}/24", overlay.base(1)?);
    overlay.nodes()[0].exec(&route)?;
    overlay.wait_joined()?;
    reach_each_other(&overlay)?;
    for agent in &overlay.agents {
        for level in ["WARN", "ERROR"] {
            assert_eq!(lines_of(&agent.log(), level), [""; 0]);
        }
    }
    Ok(())
}

#[test]
fn a_node_changes_from_root_to_a_user_without_a_lost_packet() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    overlay.agents[0].term()?;
    let node = &overlay.nodes()[0];
    prepare(node)?;
    let agent = Agent::builder(node).etcd(&overlay.etcd).arg("--dataplane=bpf").as_user(USER, &FULL)?;
    let file = node.subnet_file();
    std::os::unix::fs::chown(file.with_extension("last-known.json"), Some(USER), Some(USER))?;
    let mut agent = agent.start()?;
    agent.wait_ready()?;
    ensure_unprivileged(&agent, FULL.len())?;
    inspect::attached_all(node, PROGRAMS)?;
    streams.ensure_whole()?;
    // The log has the lines of both.
    assert_eq!(lines_of(&agent.log(), "WARN"), [""; 0]);
    Ok(())
}

#[test]
fn a_bpf_filesystem_that_is_mounted_for_a_user_belongs_to_the_user() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let folder = node.dir().join("missing/bpf");
    let (agent, folder) = (agent_binary()?, folder.display());
    let prepare = format!("{} prepare-node --bpffs {folder} --owner {USER}", agent.display());
    let script = format!("{prepare} && {prepare} && stat -c %u:%a {folder} {folder}/{}", abi::PIN_DIR);
    let mut unshare = node.netns().command("unshare");
    let printed = finish(unshare.args(["--mount", "sh", "-ec", &script]), "", LIMIT)?;
    // The kernel always sets the sticky bit of the filesystem's root.
    assert_eq!(printed, format!("{USER}:1700\n{USER}:700\n"));
    Ok(())
}

/// Puts the legacy variant of iptables, and no other, into the agent's path. Only that one needs a raw socket.
fn legacy_tools(node: &Node) -> Result<String> {
    let path = node.dir().join("programs");
    fs::create_dir(&path)?;
    for program in ["iptables", "iptables-restore"] {
        symlink(installed(&program.replace("iptables", "iptables-legacy"))?, path.join(program))?;
    }
    symlink(installed("setpriv")?, path.join("setpriv"))?;
    Ok(path.display().to_string())
}

#[test]
fn each_capability_is_needed() -> TestResult {
    for (capability, level, said) in [
        ("net_admin", "ERROR", "Operation not permitted"),
        ("net_raw", "ERROR", "iptables"),
        ("bpf", "WARN", "CAP_BPF"),
        ("perfmon", "WARN", "CAP_PERFMON"),
        ("", "INFO", "dataplane=\"bpf\""),
    ] {
        let cluster = Cluster::segment(1)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(NETWORK)?;
        let node = &cluster.nodes()[0];
        let rest: Vec<_> = FULL.into_iter().filter(|name| *name != capability).collect();
        let agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=auto").arg("--ip-masq");
        let agent = agent.env("PATH", legacy_tools(node)?).with_capabilities(&rest).start()?;
        eventually(&format!("an agent without {capability:?} says so"), SOON, || {
            let lines = lines_of(&agent.log(), level);
            ensure!(lines.iter().any(|line| line.contains(said)), "no {said:?} in {}", agent.log());
            Ok(())
        })?;
        if capability.is_empty() {
            eventually("legacy rules are written", SOON, || {
                ensure!(agent.log().contains("wrote chain FLANNEL-FWD"), "{}", agent.log());
                Ok(())
            })?;
            for level in ["WARN", "ERROR"] {
                assert_eq!(lines_of(&agent.log(), level), [""; 0], "with all of them");
            }
        }
    }
    Ok(())
}

/// Returns the capabilities behind a key in a file of `deploy/`, in lower case and sorted.
fn capabilities_in(file: &str, until: &str, key: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let (_, rest) = text.split_once(key).with_context(|| format!("{file} has no {key}"))?;
    let list = rest.split_once(until).map_or(rest, |(list, _)| list);
    let lines = list.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words =
        lines.flat_map(|line| line.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_'));
    let names = words.filter(|word| !word.is_empty());
    let mut names: Vec<_> = names.map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect();
    names.sort_unstable();
    Ok(names)
}

#[test]
fn manifests_and_units_have_these_capabilities_and_no_others() -> TestResult {
    let mut expected = FULL.map(str::to_owned).to_vec();
    expected.sort_unstable();
    for (file, until, key) in [
        ("kube-flannel.yml", "seccompProfile", "            add:\n"),
        ("debian/flannel-agent.service", "\n", "CapabilityBoundingSet="),
        ("debian/non-root.conf", "\n", "AmbientCapabilities="),
    ] {
        assert_eq!(capabilities_in(file, until, key)?, expected, "{file}");
    }
    Ok(())
}
