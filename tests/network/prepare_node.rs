//! `flannel-agent prepare-node` makes what an agent without privileges finds missing.

use std::path::Path;

use anyhow::Result;
use flannel_tests::agent::agent_binary;
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::{Cluster, Node, TestResult};

/// Runs `prepare-node`, then a shell command, with mounts that nobody else sees.
fn prepare(node: &Node, folder: &Path, then: &str) -> Result<String> {
    let (agent, folder) = (agent_binary()?, folder.display());
    let script = format!("{} prepare-node --bpffs {folder}; {then}", agent.display());
    let mut unshare = node.netns().command("unshare");
    finish(unshare.args(["--mount", "sh", "-ec", &script]), "", LIMIT)
}

#[test]
fn the_bpf_filesystem_is_mounted_once() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let folder = node.dir().join("missing/bpf");
    let again = format!("{} prepare-node --bpffs {}", agent_binary()?.display(), folder.display());
    let mounts = prepare(node, &folder, &format!("{again}; cat /proc/self/mounts"))?;
    let line = format!("bpf {} bpf ", folder.display());
    assert_eq!(mounts.lines().filter(|mount| mount.starts_with(&line)).count(), 1, "{mounts}");
    Ok(())
}

#[test]
fn the_connection_tracker_accepts_what_the_flow_cache_hides_from_it() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    for setting in ["nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_ignore_invalid_rst"] {
        let value = prepare(node, node.bpffs()?, &format!("cat /proc/sys/net/netfilter/{setting}"))?;
        assert_eq!(value.trim(), "1", "{setting}");
    }
    Ok(())
}
