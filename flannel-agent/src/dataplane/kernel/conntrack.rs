//! The connection tracker's settings: those that the flow cache needs, and the timeouts that limit it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use flannel_common::flow::{PROOF_NS, TRANSLATED_NS};
use tracing::{info, warn};

use super::setting::Setting;

/// The settings of this network namespace. The folder is absent where nothing tracks connections.
const FOLDER: &str = "/proc/sys/net/netfilter";

/// Accepts TCP packets outside the window. A setting of each network namespace since Linux 5.13.
const BE_LIBERAL: &str = "nf_conntrack_tcp_be_liberal";
/// Accepts resets with an old number, as one more than 2 GiB ahead seems to be. Since Linux 5.19.
const IGNORE_INVALID_RST: &str = "nf_conntrack_tcp_ignore_invalid_rst";

/// How long the connection tracker remembers a UDP flow without packets, in seconds.
const UDP_TIMEOUTS: [&str; 2] = ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"];
/// The same of an established TCP connection: usually, and in special cases.
const TCP_TIMEOUTS: [&str; 3] = [
    "nf_conntrack_tcp_timeout_established",
    "nf_conntrack_tcp_timeout_unacknowledged",
    "nf_conntrack_tcp_timeout_max_retrans",
];
/// The same of one that one side has ended, while the other one still sends.
const HALF_CLOSED_TIMEOUTS: [&str; 2] =
    ["nf_conntrack_tcp_timeout_fin_wait", "nf_conntrack_tcp_timeout_close_wait"];

/// Keeps the connection tracker as flows that skip the host stack need it. Of such a flow it sees few packets, and rules that
/// drop INVALID ones (kube-proxy's) would end the connection.
#[derive(Debug)]
pub struct LiberalTracker {
    window: Kept,
    resets: Kept,
}

impl Default for LiberalTracker {
    fn default() -> Self {
        Self { window: Kept::new(setting(BE_LIBERAL)), resets: Kept::new(setting(IGNORE_INVALID_RST)) }
    }
}

impl LiberalTracker {
    /// Makes the connection tracker liberal, again if another program has set it back. Returns whether that ends or begins
    /// to succeed.
    pub fn keep(&mut self) -> bool {
        let was_strict = self.strict().is_some();
        self.window.keep();
        let was_refused = self.resets.refused.is_some();
        self.resets.keep();
        if let Some(why) = self.resets.refused.as_deref().filter(|_| !was_refused) {
            info!(
                "resets of connections may be lost until the agent has told the connection tracker of them, within a minute: {why}"
            );
        }
        self.strict().is_some() != was_strict
    }

    /// Returns why it is strict.
    #[must_use]
    pub fn strict(&self) -> Option<&str> {
        self.window.refused.as_deref()
    }
}

/// A setting that has to be 1.
#[derive(Debug)]
struct Kept {
    setting: Setting,
    /// It was 1 before.
    was_set: bool,
    /// It was set back by another program, which is logged once.
    is_contested: bool,
    /// Why it is 0.
    refused: Option<String>,
}

impl Kept {
    const fn new(setting: Setting) -> Self {
        Self { setting, was_set: false, is_contested: false, refused: None }
    }

    fn keep(&mut self) {
        match enable(&mut self.setting) {
            // The connection tracker may be loaded later, and is as the kernel makes it then.
            Ok(None) => (self.was_set, self.refused) = (false, None),
            Ok(Some(changed)) => {
                let name = self.setting.name();
                if changed && !self.was_set {
                    info!("set net.netfilter.{name}, for the flow cache");
                } else if changed && !self.is_contested {
                    self.is_contested = true;
                    warn!(
                        "another program has set net.netfilter.{name} back to 0, which harms TCP connections that skip \
                         the host stack. It is set again, each time. Please set it to 1 where the node's settings are (/etc/sysctl.d)"
                    );
                }
                self.was_set = true;
                self.refused = None;
            }
            Err(error) => self.refused = Some(format!("{error:#}")),
        }
    }
}

/// Sets the connection tracker for the flow cache.
///
/// # Errors
/// A setting cannot be read or written.
pub fn prepare() -> Result<()> {
    [BE_LIBERAL, IGNORE_INVALID_RST].into_iter().try_for_each(|name| enable(&mut setting(name)).map(drop))
}

/// Returns a setting of the connection tracker.
fn setting(name: &str) -> Setting {
    Setting::new(Path::new(FOLDER), name)
}

/// Sets this to 1. Returns false if it is already, and `None` if the kernel does not have it.
fn enable(setting: &mut Setting) -> Result<Option<bool>> {
    let current = match setting.read() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        current => current.with_context(|| format!("reading {}", setting.path().display()))?,
    };
    if current != 0 {
        return Ok(Some(false));
    }
    let path = setting.path();
    fs::write(path, "1").with_context(|| {
        format!(
            "writing 1 to {} (net.netfilter.{}=1 on the node, or `flannel-agent prepare-node` there, does it)",
            path.display(),
            setting.name()
        )
    })?;
    Ok(Some(true))
}

/// Returns whether resets with an old number are accepted.
#[must_use]
pub fn ignores_invalid_resets() -> bool {
    setting(IGNORE_INVALID_RST).read().is_ok_and(|value| value != 0)
}

/// After how many seconds without packets the connection tracker forgets a flow. What it does not say is as if it never did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The shortest that applies to UDP.
    pub udp: u32,
    /// The shortest that applies to TCP, once a connection is established.
    pub tcp: u32,
    /// What applies to an established connection in which all is acknowledged.
    pub established: u32,
    /// The shortest that applies to an established connection.
    pub shortest_established: u32,
}

impl Timeouts {
    /// Returns whether the kernel tracks connections at all.
    #[must_use]
    pub const fn exist(&self) -> bool {
        self.established != u32::MAX
    }
}

/// Reads the timeouts, again and again.
#[derive(Debug)]
pub struct TimeoutSettings {
    udp: [Setting; 2],
    tcp: [Setting; 3],
    half_closed: [Setting; 2],
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            udp: UDP_TIMEOUTS.map(setting),
            tcp: TCP_TIMEOUTS.map(setting),
            half_closed: HALF_CLOSED_TIMEOUTS.map(setting),
        }
    }
}

impl TimeoutSettings {
    /// Reads them.
    #[must_use]
    pub fn read(&mut self) -> Timeouts {
        let Self { udp, tcp, half_closed } = self;
        let tcp = tcp.each_mut().map(seconds);
        let shortest = |settings: &mut [Setting]| settings.iter_mut().map(seconds).min().unwrap_or(u32::MAX);
        let shortest_established = tcp.into_iter().min().unwrap_or(u32::MAX);
        Timeouts {
            udp: shortest(udp),
            tcp: shortest_established.min(shortest(half_closed)),
            established: tcp[0],
            shortest_established,
        }
    }
}

fn seconds(setting: &mut Setting) -> u32 {
    setting.read().unwrap_or(u32::MAX)
}

/// How long proofs of flows hold, in milliseconds: the connection tracker must see a packet of a busy flow before it forgets
/// it. See `NodeConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proofs {
    /// Of TCP.
    pub tcp: u32,
    /// Of UDP.
    pub udp: u32,
    /// Of translated flows, of either.
    pub translated: u32,
}

impl Proofs {
    /// Returns how long they hold with these timeouts: a third of them at the most, so that a lost packet does no harm. The
    /// proof of answers to translated packets holds twice the time.
    #[must_use]
    pub fn within(timeouts: &Timeouts) -> Self {
        let third = |seconds: u32, longest: u64| {
            let longest = u32::try_from(longest / 1_000_000).unwrap_or(u32::MAX);
            (seconds.saturating_mul(1000) / 3).min(longest)
        };
        Self {
            tcp: third(timeouts.tcp, PROOF_NS),
            udp: third(timeouts.udp, PROOF_NS),
            translated: third(timeouts.tcp.min(timeouts.udp), 2 * TRANSLATED_NS) / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_that_is_loaded_later_was_not_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(BE_LIBERAL);
        let mut kept = Kept::new(Setting::new(folder.path(), BE_LIBERAL));
        kept.keep();
        for is_contested in [false, true] {
            fs::write(&file, "0\n").unwrap();
            kept.keep();
            assert_eq!(fs::read_to_string(&file).unwrap(), "1");
            assert_eq!(kept.is_contested, is_contested);
        }
    }

    #[test]
    fn a_proof_holds_no_longer_than_a_third_of_a_timeout() {
        let usual = Timeouts { udp: 30, tcp: 60, established: 432_000, shortest_established: 300 };
        let longest = Proofs { tcp: 10_000, udp: 10_000, translated: 1000 };
        for (timeouts, expected) in [
            (usual, longest),
            (Timeouts { udp: u32::MAX, tcp: u32::MAX, ..usual }, longest),
            (Timeouts { udp: 29, ..usual }, Proofs { udp: 9666, ..longest }),
            (Timeouts { udp: 6, ..usual }, Proofs { udp: 2000, ..longest }),
            (Timeouts { udp: 5, ..usual }, Proofs { udp: 1666, translated: 833, ..longest }),
            (Timeouts { tcp: 3, ..usual }, Proofs { tcp: 1000, translated: 500, ..longest }),
            (Timeouts { udp: 0, ..usual }, Proofs { udp: 0, translated: 0, ..longest }),
        ] {
            assert_eq!(Proofs::within(&timeouts), expected, "{timeouts:?}");
        }
    }
}
