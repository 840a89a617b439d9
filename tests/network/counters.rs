//! Counters of the programs: every reader finds the same numbers under the same names.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::abi;
use flannel_common::outcome::{Hook, MetricsKey, Outcome, Traffic};
use flannel_tests::agent::agent_binary;
use flannel_tests::metrics::{self, Metric};
use flannel_tests::traffic::ping;
use flannel_tests::{Node, TestResult, eventually};
use serde_json::Value;

use crate::inspect;
use crate::overlay::Overlay;

/// Time limit for all to read the counters while none of them moves.
const SOON: Duration = Duration::from_secs(10);
/// Counts pings between pods.
const WRAPPED: MetricsKey = MetricsKey { outcome: Outcome::Encapsulated, hook: Hook::OverlayEgress };

/// Returns the lines of `flannel-agent counters`.
fn shown(node: &Node) -> Result<Vec<String>> {
    let mut command = node.netns().command(agent_binary()?);
    let output = command.arg("counters").arg("--bpffs").arg(node.bpffs()?).output()?;
    ensure!(output.status.success(), "counters: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// Fails unless bpftool and the agent's subcommand show exactly what is counted.
fn all_agree(node: &Node) -> Result<()> {
    let counted = inspect::metrics(node)?;
    let (by_bpftool, lines) = (metrics::read(node.bpffs()?, 1)?, shown(node)?);
    ensure!(counted == inspect::metrics(node)?, "a packet came meanwhile");
    let wrapped = counted.get(&WRAPPED).context("no packet was wrapped")?;
    ensure!(wrapped.packets >= 3 && wrapped.bytes >= 3 * 98, "{wrapped:?} for three pings");
    ensure!(
        by_bpftool.len() == counted.len() && lines.len() == counted.len() + 1,
        "{counted:?} {by_bpftool:?} {lines:?}"
    );
    for (MetricsKey { outcome, hook }, Traffic { packets, bytes }) in counted {
        let metric = Metric { hook: format!("{hook:?}"), outcome: format!("{outcome:?}"), packets, bytes };
        ensure!(by_bpftool.contains(&metric), "bpftool does not show {metric:?}");
        let (packets, bytes) = (packets.to_string(), bytes.to_string());
        let words = [&packets, "packets", &bytes, "bytes", hook.program(), outcome.name()];
        let has_words = |line: &String| line.split_whitespace().take(words.len()).eq(words);
        ensure!(lines.iter().any(has_words), "not in {lines:#?}: {words:?}");
    }
    Ok(())
}

/// Reads what has come in two seconds, a part for each, and goes away.
fn read_two(output: ChildStdout) -> Result<()> {
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    for _ in 0..2 {
        let title = lines.next().context("the output has ended")?;
        ensure!(title.starts_with("in 1."), "{title}");
        let part: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let sent = part.iter().find(|line| line.contains(" pod_egress       encapsulated "));
        let sent =
            sent.and_then(|line| line.split_whitespace().next()).with_context(|| format!("{part:#?}"))?;
        // A stream has 500 a second, on an idle machine.
        ensure!((1..2000).contains(&sent.parse::<u64>()?), "{part:#?}");
    }
    Ok(())
}

fn ensure_ended(child: &mut Child) -> Result<()> {
    eventually("the command ends with its reader", SOON, || {
        let status = child.try_wait()?.context("it runs")?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
}

/// Puts counters with fewer outcomes in place of the node's.
fn put_older_counters(node: &Node) -> Result<()> {
    let path = inspect::pins(node)?.path(abi::METRICS);
    std::fs::remove_file(&path)?;
    let (path, size) = (path.display(), size_of::<Traffic>() * Hook::ALL.len() * 40);
    let create =
        format!("bpftool map create {path} type percpu_array key 4 value {size} entries 1 name METRICS");
    node.netns().exec(&create).map(drop)
}

#[test]
fn counters_have_one_set_of_names_and_change_with_the_version() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let pings = |overlay: &Overlay| {
        let (one, other) = overlay.two_pods();
        (0..3).try_for_each(|_| ping(one, other.ip()).map(drop))
    };
    pings(&overlay)?;
    eventually("all readers agree", SOON, || all_agree(&overlay.nodes()[0]))?;

    let leases = inspect::map_id(&overlay.nodes()[0], abi::LEASES)?;
    overlay.agents[0].kill()?;
    put_older_counters(&overlay.nodes()[0])?;
    overlay.agents[0].restart()?;
    overlay.wait_joined()?;
    assert_eq!(inspect::map_id(&overlay.nodes()[0], abi::LEASES)?, leases, "the other maps stay");
    pings(&overlay)?;
    eventually("all readers agree again", SOON, || all_agree(&overlay.nodes()[0]))?;
    Ok(())
}

#[test]
fn each_second_has_its_own_counters_until_the_reader_goes_away() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let _streams = overlay.streams()?;
    let node = &overlay.nodes()[0];
    let mut command = node.netns().command(agent_binary()?);
    command.args(["counters", "--watch"]).arg("--bpffs").arg(node.bpffs()?).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let output = child.stdout.take().context("no output")?;
    let done = read_two(output).and_then(|()| ensure_ended(&mut child));
    if done.is_err() {
        child.kill()?;
        child.wait()?;
    }
    done?;
    Ok(())
}

#[test]
fn the_counters_are_the_same_as_json() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    let node = &overlay.nodes()[0];
    eventually("JSON has what is counted", SOON, || {
        let counted = inspect::metrics(node)?;
        let mut command = node.netns().command(agent_binary()?);
        let output = command.args(["counters", "--json"]).arg("--bpffs").arg(node.bpffs()?).output()?;
        let json: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        ensure!(counted == inspect::metrics(node)?, "a packet came meanwhile");
        ensure!(json["schema"] == 1 && json["overlays"][0]["vni"] == 1, "{json:#}");
        let rows = json["overlays"][0]["counters"].as_array().context("no counters")?;
        ensure!(rows.len() == counted.len(), "{json:#}");
        for (MetricsKey { outcome, hook }, Traffic { packets, bytes }) in counted {
            let is_it = |row: &&Value| row["program"] == hook.program() && row["outcome"] == outcome.name();
            let row = rows.iter().find(is_it).with_context(|| format!("no {outcome:?}: {json:#}"))?;
            ensure!(row["packets"] == packets && row["bytes"] == bytes, "{row}");
        }
        Ok(())
    })?;
    Ok(())
}
