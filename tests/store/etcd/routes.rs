//! Records all changes of nodes' routes with `ip monitor`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{Node, eventually};

use crate::inspect::{DEVICE, Peer};

const SOON: Duration = Duration::from_secs(5);
/// A route that is added to see whether the monitor runs; from the addresses for documentation.
const PROBE: &str = "192.0.2.0/24";

/// Records until it is dropped.
pub(super) struct RouteLog(Vec<Listener>);

struct Listener {
    monitor: Child,
    file: PathBuf,
}

impl RouteLog {
    pub(super) fn start(nodes: &[Node]) -> Result<Self> {
        Ok(Self(nodes.iter().map(Listener::start).collect::<Result<_>>()?))
    }

    /// Fails unless a route to each of these peers was added once, and no other route was changed.
    pub(super) fn ensure_only_new(&self, peers: &[Peer]) -> Result<()> {
        for listener in &self.0 {
            let heard = listener.heard()?;
            let new = |line: &&str| {
                peers.iter().filter(|peer| line.starts_with(&format!("{}/24 ", peer.base))).count()
            };
            ensure!(
                heard.lines().count() == peers.len() && heard.lines().all(|line| new(&line) == 1),
                "other routes than those of {peers:?} were changed: {heard}"
            );
        }
        Ok(())
    }
}

impl Listener {
    fn start(node: &Node) -> Result<Self> {
        let file = node.dir().join("routes.log");
        let output = File::create(&file)?;
        let mut monitor = node.netns().command("ip");
        monitor.args(["-4", "monitor", "route"]).stdin(Stdio::null()).stdout(output);
        let listener = Self { monitor: monitor.spawn().context("start ip monitor")?, file };
        eventually("ip monitor runs", SOON, || {
            // Added and deleted: replacing a route with the same one is not reported.
            node.exec(&format!("ip route add {PROBE} dev lo"))?;
            node.exec(&format!("ip route del {PROBE} dev lo"))?;
            ensure!(fs::read_to_string(&listener.file)?.contains(PROBE), "nothing heard");
            Ok(())
        })?;
        Ok(listener)
    }

    /// Returns the changes of routes through the vxlan device.
    fn heard(&self) -> Result<String> {
        let text = fs::read_to_string(&self.file)?;
        Ok(text.lines().filter(|line| line.contains(DEVICE)).map(|line| format!("{line}\n")).collect())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ended = self.monitor.kill().and_then(|()| self.monitor.wait());
        if let Err(error) = ended {
            eprintln!("ending ip monitor: {error}");
        }
    }
}
