//! The commands for a closer look that documents show: each runs on a node, and what documents show of its output has the shape of
//! the real one.

mod scene;
mod shape;
mod shown;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use flannel_tests::agent::agent_binary;
use flannel_tests::wait::patiently;
use flannel_tests::{Node, TestResult, executable};

use scene::Scene;

/// Time limit for the node to work, and to say so.
const SOON: Duration = Duration::from_secs(15);
/// Seconds after which a command that goes on is ended, and one that does not is given up.
const WATCHING: &str = "3";
const PATIENCE: &str = "60";
/// The documents with such commands.
const DOCUMENTS: [&str; 5] = ["bpftool.md", "check.md", "kubernetes.md", "operations.md", "status.md"];
/// How commands begin that only look.
const LOOKS: [&str; 19] = [
    "bpftool -j map dump",
    "bpftool link show",
    "bpftool map dump",
    "bpftool map lookup",
    "bpftool map show",
    "bpftool net show",
    "bpftool prog show",
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
    "ls /sys/fs/bpf/flannel",
];
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
fn install(node: &Node) -> Result<PathBuf> {
    let folder = node.dir().join("bin");
    fs::create_dir_all(&folder)?;
    let (agent, file) = (agent_binary()?, node.subnet_file());
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --subnet-file {} --bpffs {}\n",
        agent.display(),
        file.display(),
        node.bpffs()?.display()
    );
    executable::script(&folder.join("flannel-agent"), &script)?;
    Ok(folder)
}

/// Runs a command of the documents on a scene's node, and ends it if it goes on.
fn run(scene: &Scene, line: &str) -> Result<Output> {
    let node = scene.node();
    let line = scene.names.iter().fold(line.to_owned(), |line, (name, here)| line.replace(name, here));
    let path = std::env::var("PATH").context("PATH is not set")?;
    let folder = install(node)?;
    let mut command = node.netns().command("timeout");
    command.args(["--kill-after=5", if goes_on(&line) { WATCHING } else { PATIENCE }, "sh", "-c", &line]);
    command.env("PATH", format!("{}:{path}", folder.display())).stdin(Stdio::null()).current_dir(node.dir());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    thread::scope(|scope| {
        let output = scope.spawn(|| child.wait_with_output());
        while scene.is_lively && goes_on(&line) && !output.is_finished() {
            scene.stir()?;
        }
        Ok(output.join().map_err(|_| anyhow!("the thread that waits has panicked"))??)
    })
}

/// Returns whether the command goes on until somebody ends it.
fn goes_on(line: &str) -> bool {
    line.contains(" monitor") || line.contains("--watch")
}

/// Fails unless the command has done what it should, or goes on as long as nobody ends it.
fn ensure_works(line: &str, output: &Output) -> Result<()> {
    let status = output.status.code().context("it was killed")?;
    let goes_on = goes_on(line);
    // The last digits of the status say how bad it is, and the host of the tests may be anything.
    let is_right =
        status == i32::from(goes_on) * NOT_ENDED || line.starts_with("flannel-agent check") && status <= 2;
    ensure!(is_right, "{line}: {output:?}");
    // What goes on may sum up at its end.
    let may_complain = goes_on || !line.starts_with("flannel-agent");
    ensure!(may_complain || output.stderr.is_empty(), "{line}: {output:?}");
    // A filter may find nothing.
    ensure!(goes_on || line.contains('|') || !output.stdout.is_empty(), "{line} prints nothing");
    Ok(())
}

#[test]
fn commands_for_a_closer_look_work() -> TestResult {
    let scene = Scene::start("pods talk", "--dataplane=bpf", 1)?;
    let _proxy = scene.serve()?;
    patiently("the node works", SOON, || {
        ensure_works("flannel-agent status", &run(&scene, "flannel-agent status")?)
    })?;
    let mut ran = 0;
    for document in DOCUMENTS {
        for line in commands(document)? {
            ensure_works(&line, &run(&scene, &line)?).with_context(|| document.to_owned())?;
            ran += 1;
        }
    }
    assert!(ran >= 30, "only {ran} commands");
    Ok(())
}
