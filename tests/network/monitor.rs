//! `flannel-agent monitor`: what it says while packets are dropped, flows begin, and nodes, devices, agent and datastore change.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::spawn;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_tests::agent::subcommand;
use flannel_tests::traffic::ping;
use flannel_tests::wait::patiently;
use flannel_tests::{Node, TestResult, eventually};
use serde_json::Value;

use super::forged;
use crate::inspect::{DEVICE, Peer};
use crate::overlay::Overlay;

/// Time limit for what a test does to be seen, repaired and told.
const SOON: Duration = Duration::from_secs(15);

/// The running subcommand, and what it has said so far.
struct Monitor {
    child: Child,
    lines: Option<Receiver<String>>,
    said: Vec<Value>,
}

impl Monitor {
    /// Starts it on a node, with these words, and waits until it listens.
    fn start(overlay: &Overlay, node: usize, words: &[&str]) -> Result<Self> {
        let mut child = command(&overlay.nodes()[node], &[&["--json"], words].concat())?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = channel();
        spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|length| length > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        let mut monitor = Self { child, lines: Some(lines), said: Vec::new() };
        come_and_go(overlay, 88, "the monitor listens", |_| {
            monitor.read();
            ensure!(!monitor.said.is_empty(), "it has said nothing");
            Ok(())
        })?;
        Ok(monitor)
    }

    fn read(&mut self) {
        let lines = self.lines.iter().flat_map(Receiver::try_iter);
        self.said
            .extend(lines.map(|line| serde_json::from_str::<Value>(&line).unwrap_or(Value::String(line))));
    }

    /// Returns what it has said that is so.
    fn all(&mut self, is_so: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.read();
        self.said.iter().filter(|said| is_so(said)).cloned().collect()
    }

    /// Waits until it says something of this kind that has these values.
    fn wait(&mut self, kind: &str, values: &[(&str, Value)]) -> Result<Value> {
        eventually(&format!("a line about {kind} with {values:?}"), SOON, || {
            let found = self.all(|said| {
                said["kind"] == kind && values.iter().all(|(field, value)| said[*field] == *value)
            });
            found.into_iter().next().with_context(|| format!("it says {:#?}", self.said))
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Both fail if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets a node come and go, again and again, until this is so. It is given the node's subnet.
fn come_and_go(
    overlay: &Overlay,
    number: u8,
    what: &str,
    mut is_so: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let node = Peer::fictional(number);
    let subnet = format!("{}/24", node.base);
    let mut is_there = false;
    patiently(what, SOON, || {
        is_there = !is_there;
        if is_there {
            overlay.etcd.put(&node.key(), &node.value())?;
        } else {
            overlay.etcd.delete(&node.key())?;
        }
        is_so(&subnet)
    })?;
    if is_there { overlay.etcd.delete(&node.key()) } else { Ok(()) }
}

fn command(node: &Node, words: &[&str]) -> Result<Child> {
    let mut command = subcommand(node, "monitor")?;
    Ok(command.args(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

#[test]
fn every_dropped_packet_is_told_or_counted() -> TestResult {
    const PACKETS: u64 = 300;
    let overlay = Overlay::bpf(2)?;
    let mut monitor = Monitor::start(&overlay, 0, &["--only", "drop,counted,peer"])?;
    let attacker = overlay.nodes()[1].ip();
    let source = forged::unleased(&overlay)?;
    for _ in 0..PACKETS {
        forged::send(&overlay, attacker, source, b"forged")?;
    }
    let told = eventually("all dropped packets are told or counted", SOON, || {
        let dropped = monitor.all(|said| said["outcome"] == "unknown-sender");
        let told = dropped.iter().filter(|said| said["kind"] == "drop").count();
        let counted: u64 = dropped.iter().filter_map(|said| said["packets"].as_u64()).sum();
        ensure!(told as u64 + counted == PACKETS, "{told} told and {counted} counted of {PACKETS}");
        Ok(dropped)
    })?;
    let first = told.first().context("none is told")?;
    assert_eq!(
        [&first["source"], &first["node"]],
        [&Value::from(source.to_string()), &Value::from(attacker.to_string())]
    );
    assert_eq!(monitor.all(Value::is_string), [Value::Null; 0], "each line is JSON");
    Ok(())
}

#[test]
fn peers_repairs_flows_and_misses_are_told() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let mut monitor = Monitor::start(&overlay, 0, &[])?;
    let node = &overlay.nodes()[0];
    let new = Peer::fictional(77);
    let subnet = ("subnet", Value::from(format!("{}/24", new.base)));
    overlay.etcd.put(&new.key(), &new.value())?;
    let joined = monitor.wait("peer", &[subnet.clone(), ("change", "joined".into())])?;
    assert_eq!(joined["public_ip"], new.public_ip.to_string());
    assert_eq!(joined["vtep_mac"], new.mac);
    overlay.etcd.delete(&new.key())?;
    monitor.wait("peer", &[subnet, ("change", "left".into())])?;

    let other = overlay.peer(1)?;
    node.netns().exec(&format!("ip route del {}/24 dev {DEVICE}", other.base))?;
    monitor.wait("repair", &[])?;

    let _streams = overlay.streams()?;
    let (one, _) = overlay.two_pods();
    let flow = monitor.wait("flow", &[("state", "proven".into())])?;
    let pod = flow["pod"].as_str().context("no pod")?;
    assert!(pod.starts_with(&format!("{}:", one.ip())), "{flow}");

    let nobody = forged::unleased(&overlay)?;
    assert!(ping(one, nobody.into()).is_err(), "nobody has {nobody}");
    monitor.wait("miss", &[("wanted", "lease".into()), ("of", nobody.to_string().into())])?;
    Ok(())
}

#[test]
fn the_monitor_outlives_agent_and_datastore() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let mut monitor = Monitor::start(&overlay, 0, &["--only", "datastore,peer,lease"])?;
    overlay.etcd.kill()?;
    let away = monitor.wait("datastore", &[("connected", false.into())])?;
    assert!(away["why"].as_str().is_some_and(|why| !why.is_empty()), "{away}");
    overlay.etcd.restart()?;
    monitor.wait("datastore", &[("connected", true.into())])?;
    overlay.agents[0].kill()?;
    overlay.agents[0].restart()?;
    overlay.wait_joined()?;
    // It connects again within a second, to an agent that has its lease by then.
    come_and_go(&overlay, 77, "a node is told by the new agent", |subnet| {
        ensure!(!monitor.all(|said| said["subnet"] == subnet).is_empty(), "{:?}", monitor.said);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn the_monitor_ends_with_its_reader() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let mut monitor = Monitor::start(&overlay, 0, &[])?;
    // The thread that reads ends, and closes its end of the pipe.
    drop(monitor.lines.take());
    come_and_go(&overlay, 77, "the monitor ends", |_| {
        match monitor.child.try_wait()? {
            Some(status) => ensure!(status.success(), "{status}"),
            None => bail!("it runs"),
        }
        Ok(())
    })?;
    Ok(())
}
