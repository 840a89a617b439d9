//! The systemd unit with the drop-in for a user without privileges, started by a real systemd.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use flannel_agent::dataplane::bpf::pins::Pins;
use flannel_tests::agent::agent_binary;
use flannel_tests::machine::Machine;
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, SubnetEnv, TestResult, eventually, executable};

use crate::overlay::{NETWORK, lines_of};

const SOON: Duration = Duration::from_secs(10);

/// Copies a file of `deploy/debian` into the machine.
fn install(machine: &Machine, file: &str, to: &str) -> Result<()> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/debian").join(file);
    let to = machine.path(to);
    fs::create_dir_all(to.parent().context("a file in a folder")?)?;
    fs::copy(from, to).with_context(|| format!("copy {file} into the machine")).map(drop)
}

#[test]
fn the_unit_runs_as_a_user_with_its_drop_in() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let nodes = cluster.nodes();
    let mut peer = Agent::builder(&nodes[1]).etcd(&etcd).start()?;
    peer.wait_ready()?;
    let machine = Machine::boot(&nodes[0])?;
    executable::copy(&agent_binary()?, &machine.path("/usr/sbin/flannel-agent"))?;
    install(&machine, "flannel-agent.service", "/etc/systemd/system/flannel-agent.service")?;
    install(&machine, "non-root.conf", "/etc/systemd/system/flannel-agent.service.d/non-root.conf")?;
    let endpoint = format!("FLANNELD_ETCD_ENDPOINTS={}\nFLANNELD_DATAPLANE=bpf\n", etcd.endpoint());
    fs::write(machine.path("/etc/default/flannel-agent"), endpoint)?;
    machine.exec("useradd --system --home-dir / --shell /usr/sbin/nologin flannel")?;
    machine.exec("systemctl daemon-reload")?;
    let journal = || machine.exec("journalctl --unit flannel-agent --output cat");
    let started = machine.exec("systemctl start flannel-agent");
    started.with_context(|| journal().unwrap_or_default())?;
    nodes[0].bridge(&SubnetEnv::read(&machine.path("/run/flannel/subnet.env"))?)?;
    let pods = cluster.one_pod_each()?;
    let reach_each_other = || {
        ping(&pods[0], pods[1].ip())?;
        ping(&pods[1], pods[0].ip())
    };
    eventually("the pods reach each other", SOON, reach_each_other)?;
    let user = machine.exec("stat -c %U /run/flannel /run/flannel/bpf /run/flannel/bpf/flannel/1/CONFIG")?;
    assert_eq!(user, "flannel\n".repeat(3));
    let number = machine.exec("id --user flannel")?;
    let pid = machine.exec("systemctl show --value --property MainPID flannel-agent")?;
    let status = machine.exec(&format!("grep Uid: /proc/{}/status", pid.trim()))?;
    assert_eq!(status.split_whitespace().nth(1), Some(number.trim()), "{status}");
    // Over a restart it finds its pins again.
    machine.exec("systemctl restart flannel-agent")?;
    eventually("the pods reach each other", SOON, reach_each_other)?;
    let journal = journal()?;
    for level in ["WARN", "ERROR"] {
        assert_eq!(lines_of(&journal, level), [""; 0]);
    }
    assert!(journal.contains("BPF programs attached"), "{journal}");
    assert!(!Pins::new(nodes[0].bpffs()?, 1).exist(), "there are pins of root's");
    machine.exec("systemctl stop flannel-agent")?;
    Ok(())
}
