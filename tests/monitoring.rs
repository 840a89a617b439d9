//! Monitoring: what agents serve at `/metrics`, and what Prometheus, the dashboard and the rules of alerts make of it.

mod alerts;
mod dashboard;
mod repairs;
mod table;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use flannel_tests::traffic::{Ping, ping_with};
use flannel_tests::{Node, Topology, require_root};

use crate::endpoint::with_endpoint;
use crate::network::forged;
use crate::overlay::{Overlay, Streams};

/// Time limit for everything to be counted and read.
const SOON: Duration = Duration::from_secs(60);
/// An address on the underlay that no lease has.
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 77);

/// Two nodes with BPF whose agents serve metrics, and pods that talk to each other.
struct Bed {
    _streams: Streams,
    overlay: Overlay,
    /// The kernel measures programs as long as this is open.
    _stats: OwnedFd,
}

impl Bed {
    fn start() -> Result<Self> {
        require_root()?;
        let stats = enable_stats(Stats::RunTime).context("have the kernel measure programs")?;
        let change = |agent| with_endpoint(agent).arg("--probe-interval=1");
        let overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, change)?;
        overlay.wait_plugged()?;
        Ok(Self { _streams: overlay.streams()?, overlay, _stats: stats })
    }

    fn nodes(&self) -> &[Node] {
        self.overlay.nodes()
    }

    /// Makes happen what metrics count beside traffic of pods: a packet to nobody, one from a stranger, and damage.
    fn stir(&self) -> Result<()> {
        let node = &self.nodes()[0];
        let (pod, nobody) = (&self.overlay.pods[0][0], forged::unleased(&self.overlay)?);
        let once = Ping { timeout: Duration::from_millis(10), ..Ping::default() };
        // It is answered with "unreachable", or not at all.
        let _ = ping_with(pod, IpAddr::from(nobody), &once);
        let theirs = Ipv4Addr::from(self.overlay.base(1)?.to_bits() + 9);
        forged::send(&self.overlay, STRANGER, theirs, b"forged")?;
        // The agent may not have repaired the damage of before.
        let _ = node.exec(&format!("ip route del {}/24", self.overlay.base(1)?));
        Ok(())
    }
}

/// Returns the path of a file of the project.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns the text of a file of the project.
fn text_of(path: &str) -> Result<String> {
    fs::read_to_string(file(path)).with_context(|| format!("read {path}"))
}
