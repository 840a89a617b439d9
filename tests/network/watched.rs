//! `--watch`: a state each second, for a terminal, a pipe or a program, until Ctrl-C or until the reader has gone away.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::ptr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::agent_binary;
use flannel_tests::wait::patiently;
use flannel_tests::{Datastore as _, Node, TestResult};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::status::run;
use crate::overlay::{NETWORK, Overlay};

/// Time limit for a command to end.
const SOON: Duration = Duration::from_secs(10);
const SUBCOMMANDS: [&[&str]; 4] = [&["peers"], &["leases"], &["flows", "--all"], &["counters"]];

/// A command that runs until this is dropped.
struct Watched(Child);

impl Drop for Watched {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Watched {
    fn start(node: &Node, words: &[&str], output: impl Into<Stdio>) -> Result<Self> {
        let mut command: Command = node.netns().command(agent_binary()?);
        command.args(words).arg("--watch").arg("--bpffs").arg(node.bpffs()?).stdout(output);
        if !["flows", "counters"].contains(&words[0]) {
            command.arg("--subnet-file").arg(node.subnet_file());
        }
        Ok(Self(command.spawn()?))
    }

    fn wait_ended(&mut self) -> Result<ExitStatus> {
        patiently("the command ends", SOON, || self.0.try_wait()?.context("it runs"))
    }
}

/// Starts an overlay whose pods talk all the time, and waits until the first node lists the second.
fn overlay() -> Result<(Overlay, impl Sized)> {
    let overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    patiently("both leases and a flow are listed", SOON, || {
        for (words, least) in [(&["leases"][..], 2), (&["peers"], 1), (&["flows", "--all"], 2)] {
            let text = String::from_utf8(run(&overlay.nodes()[0], words)?.stdout)?;
            ensure!(text.lines().count() >= least, "{words:?}: {text}");
        }
        Ok(())
    })?;
    Ok((overlay, streams))
}

/// Returns the two ends of a terminal of this size, the process's own first.
fn terminal(rows: u16, columns: u16) -> Result<(File, OwnedFd)> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut own, mut other) = (-1, -1);
    // SAFETY: all pointers are valid or null, and the kernel only reads `size`.
    let done = unsafe { libc::openpty(&mut own, &mut other, ptr::null_mut(), ptr::null(), &size) };
    ensure!(done == 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: openpty has just opened both for this process, and nothing else has them.
    Ok(unsafe { (File::from_raw_fd(own), OwnedFd::from_raw_fd(other)) })
}

#[test]
fn states_follow_each_other_with_an_empty_line_until_the_reader_goes_away() -> TestResult {
    let (overlay, _streams) = overlay()?;
    let node = &overlay.nodes()[0];
    for words in SUBCOMMANDS {
        let mut watched = Watched::start(node, words, Stdio::piped())?;
        let output = watched.0.stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        for _ in 0..2 {
            let state: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            assert!(!state.is_empty(), "{words:?} shows nothing");
            assert!(state.iter().all(|line| !line.contains('\x1b')), "{state:?}");
        }
        drop(lines);
        let status = watched.wait_ended()?;
        assert!(status.success(), "{words:?}: {status}");
    }
    Ok(())
}

#[test]
fn json_has_a_document_on_each_line() -> TestResult {
    let (overlay, _streams) = overlay()?;
    let node = &overlay.nodes()[0];
    for words in SUBCOMMANDS {
        let mut watched = Watched::start(node, &[words, &["--json"]].concat(), Stdio::piped())?;
        let output = watched.0.stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines();
        for _ in 0..2 {
            let line = lines.next().with_context(|| format!("{words:?} has ended"))??;
            let json: Value = serde_json::from_str(&line).with_context(|| format!("{words:?}: {line}"))?;
            assert_eq!(json["schema"], 1, "{line}");
            let parts = json["networks"].as_array().or(json["overlays"].as_array());
            assert_eq!(parts.map(Vec::len), Some(1), "{line}");
            if words == ["counters"] {
                let seconds = json["seconds"].as_f64().context("no time")?;
                assert!((1.0..10.0).contains(&seconds), "{line}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_terminal_is_drawn_again_and_ctrl_c_ends_it() -> TestResult {
    let (rows, columns) = (3, 50);
    let (overlay, _streams) = overlay()?;
    let node = &overlay.nodes()[0];
    for words in SUBCOMMANDS {
        let (mut own, other) = terminal(rows, columns)?;
        let mut watched = Watched::start(node, words, other)?;
        let mut read = String::new();
        let mut part = [0; 4096];
        // A screen begins where the cursor goes home, and ends where the rest is removed.
        while read.matches("\x1b[J").count() < 2 {
            let length = own.read(&mut part).with_context(|| format!("{words:?}: {read:?}"))?;
            read += &String::from_utf8_lossy(&part[..length]);
        }
        let second = read.split("\x1b[H").nth(2).with_context(|| format!("{words:?}: {read:?}"))?;
        let lines: Vec<_> = second.trim_end_matches("\x1b[J").lines().collect();
        assert!(!lines.is_empty() && lines.len() < rows.into(), "{words:?}: {lines:?}");
        for line in &lines {
            let line = line.strip_suffix("\x1b[K").with_context(|| format!("{words:?}: {line:?}"))?;
            assert!(line.chars().count() <= columns.into(), "{words:?}: {line:?}");
        }
        kill(Pid::from_raw(watched.0.id().try_into()?), Signal::SIGINT)?;
        let status = watched.wait_ended()?;
        assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{words:?}: {status}");
    }
    Ok(())
}

#[test]
fn what_changes_is_in_the_next_state() -> TestResult {
    let cluster = flannel_tests::Cluster::segment(1)?;
    let store = cluster.local_store("store")?;
    store.configure(NETWORK)?;
    let _agents = cluster.start_agents_with(&store, |agent| agent)?;
    let node = &cluster.nodes()[0];
    let new = crate::inspect::Peer::fictional(90);
    for (words, field) in [(&["leases"][..], "leases"), (&["peers"], "peers")] {
        let mut watched = Watched::start(node, &[words, &["--json"]].concat(), Stdio::piped())?;
        let output = watched.0.stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines();
        let mut has = |wanted: bool| -> Result<()> {
            for _ in 0..SOON.as_secs() {
                let line = lines.next().context("it has ended")??;
                let json: Value = serde_json::from_str(&line)?;
                let subnets = json["networks"][0][field].to_string();
                if subnets.contains(&format!("{}/24", new.base)) == wanted {
                    return Ok(());
                }
            }
            anyhow::bail!("{words:?}: not so after {} states: {wanted}", SOON.as_secs())
        };
        has(false)?;
        store.put_whole(&new.name(), &new.value())?;
        has(true)?;
        store.delete(&new.name())?;
        has(false)?;
    }
    Ok(())
}
