//! The commands for a closer look that documents show: each runs on a node.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::agent_binary;
use flannel_tests::kube_proxy::{KubeProxy, Mode, Service};
use flannel_tests::wait::patiently;
use flannel_tests::{Node, TestResult, Topology};

use crate::overlay::Overlay;

/// Time limit for the node to work, and to say so.
const SOON: Duration = Duration::from_secs(15);
/// The documents with such commands.
const DOCUMENTS: [&str; 4] = ["check.md", "kubernetes.md", "operations.md", "status.md"];
/// How commands begin that only look.
const LOOKS: [&str; 13] = [
    "bpftool link show",
    "bpftool map dump",
    "flannel-agent check",
    "flannel-agent counters",
    "flannel-agent flows",
    "flannel-agent leases",
    "flannel-agent monitor",
    "flannel-agent peers",
    "flannel-agent status",
    "flannel-agent trace",
    "ip link show",
    "ip route;",
    "iptables -t nat -vS",
];
/// What documents call this node's pod, another node's, and the BPF filesystem.
const POD: &str = "10.244.1.5";
const OTHER_POD: &str = "10.244.7.9";
const BPFFS: &str = "/sys/fs/bpf";
/// The service in documents, whose endpoint is the other node's pod.
const SERVICE: &str = "10.96.0.10:53";
/// The status of `timeout` if the command has not ended by itself.
const NOT_ENDED: i32 = 124;

/// Returns the commands of a document's blocks of code that only look, without comments.
fn commands(document: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let blocks = text.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).filter(|line| LOOKS.iter().any(|look| line.starts_with(look)));
    Ok(lines.map(|line| line.split(" #").next().unwrap_or(line).trim_end().to_owned()).collect())
}

/// Writes a program that is the agent with the paths of this node. Returns its folder.
fn install(node: &Node) -> Result<std::path::PathBuf> {
    let folder = node.dir().join("bin");
    fs::create_dir_all(&folder)?;
    let (agent, file) = (agent_binary()?, node.subnet_file());
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --subnet-file {} --bpffs {}\n",
        agent.display(),
        file.display(),
        node.bpffs()?.display()
    );
    let program = folder.join("flannel-agent");
    fs::write(&program, script)?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// Runs a command of the documents on the first node, for some seconds at most.
fn run(overlay: &Overlay, folder: &Path, line: &str) -> Result<Output> {
    let node = &overlay.nodes()[0];
    let (own, other) = overlay.two_pods();
    let line = line
        .replace(POD, &own.ip().to_string())
        .replace(OTHER_POD, &other.ip().to_string())
        .replace(BPFFS, &node.bpffs()?.display().to_string());
    let path = std::env::var("PATH").context("PATH is not set")?;
    let mut command = node.netns().command("timeout");
    command.args(["--kill-after=5", "3", "sh", "-c", &line]);
    Ok(command.env("PATH", format!("{}:{path}", folder.display())).output()?)
}

/// Fails unless the command has done what it should, or goes on as long as nobody ends it.
fn ensure_works(line: &str, output: &Output) -> Result<()> {
    let status = output.status.code().context("it was killed")?;
    let goes_on = line.contains(" monitor") || line.contains("--watch");
    // The last digits of the status say how bad it is, and the host of the tests may be anything.
    let is_right =
        status == i32::from(goes_on) * NOT_ENDED || line.starts_with("flannel-agent check") && status <= 2;
    ensure!(is_right, "{line}: {output:?}");
    let is_agent = line.starts_with("flannel-agent");
    ensure!(!is_agent || output.stderr.is_empty(), "{line}: {output:?}");
    // A filter may find nothing.
    ensure!(goes_on || line.contains('|') || !output.stdout.is_empty(), "{line} prints nothing");
    Ok(())
}

#[test]
fn commands_for_a_closer_look_work() -> TestResult {
    let overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, |agent| {
        agent.arg("--ip-masq")
    })?;
    let _streams = overlay.streams()?;
    let proxy = KubeProxy::start(overlay.nodes()[0].netns(), Mode::Iptables, &["10.5.0.0/16"], false)?;
    proxy.sync(&Service::both("dns", SERVICE.parse()?, &[SocketAddr::new(overlay.two_pods().1.ip(), 53)]))?;
    let folder = install(&overlay.nodes()[0])?;
    patiently("the node works", SOON, || {
        ensure_works("flannel-agent status", &run(&overlay, &folder, "flannel-agent status")?)
    })?;
    let mut ran = 0;
    for document in DOCUMENTS {
        for line in commands(document)? {
            ensure_works(&line, &run(&overlay, &folder, &line)?).with_context(|| document.to_owned())?;
            ran += 1;
        }
    }
    assert!(ran >= 30, "only {ran} commands");
    Ok(())
}
