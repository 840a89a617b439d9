//! The document that the running agent gives to `flannel-agent status`.

use serde::{Deserialize, Serialize};

/// Version of the document. It rises when a field goes or gets another meaning.
pub const SCHEMA: u32 = 1;

/// The document. Times are whole seconds. What an agent of another version does not say has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentReport {
    /// [`SCHEMA`] of the agent that wrote it.
    pub schema: u32,
    /// The agent's version.
    pub version: String,
    /// Its process ID, as its own PID namespace has it.
    pub pid: u32,
    /// How long it has run.
    pub runs_for: u64,
    /// Whether the node is ready.
    pub ready: bool,
    /// The network's name on this node: `vxlan 1`. `None` until its configuration is known, and with the backend alloc.
    pub network: Option<String>,
    /// How packets are carried; `None` until the backend runs.
    pub carrying: Option<Carrying>,
    /// The other nodes that it carries packets for.
    pub nodes: i64,
    /// Those of them that the datastore no longer has.
    pub held_nodes: i64,
    /// The node's own lease.
    pub lease: Lease,
    /// The datastore.
    pub datastore: Datastore,
    /// The firewall's rules; `None` until they were complete once.
    pub firewall: Option<Rules>,
    /// Problems that last, the oldest first.
    pub problems: Vec<Lasting>,
    /// What was repaired lately, the newest first.
    pub repairs: Vec<Repair>,
}

/// How packets are carried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Carrying {
    /// `bpf`, `netlink`, or the backend's name.
    pub dataplane: String,
    /// Why BPF does not carry them.
    pub without_bpf: Option<String>,
    /// Why they are not carried as fast as was asked for.
    pub shortcoming: Option<String>,
    /// The uplink and the node's addresses there.
    pub uplink: String,
    /// The node's subnets.
    pub subnets: Vec<String>,
    /// Ports of pods that do not take the shortcut, some of them if there are many.
    pub slow_ports: Vec<SlowPort>,
    /// How many there are.
    pub slow_ports_in_all: usize,
}

/// A port of a pod that does not take the shortcut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowPort {
    /// Its name.
    pub port: String,
    /// Why.
    pub why: String,
}

/// The node's own lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Lease {
    /// It has none, or the datastore has not confirmed it in this run.
    #[default]
    None,
    /// It ends after so many seconds unless it is renewed.
    Ends {
        /// The seconds.
        left: u64,
    },
    /// It is a reservation, which never ends.
    Reserved,
}

/// What the agent knows of the datastore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Datastore {
    /// Its kind and place: `etcd /coreos.com/network`.
    pub name: String,
    /// Whether the leases are watched.
    pub connected: bool,
    /// For how long that has been so; `None` if the datastore has not answered in this run.
    pub since: Option<u64>,
    /// How long ago it sent its last change, or its last list of all leases.
    pub last_change: Option<u64>,
    /// Why it is not connected.
    pub why: Option<String>,
}

/// The firewall's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What writes them: `iptables` or `nftables`.
    pub tool: String,
    /// How long ago they were looked at and complete.
    pub complete: u64,
}

/// A problem that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lasting {
    /// Its kind, as the metrics have it.
    pub kind: String,
    /// How long it has lasted.
    pub lasts: u64,
    /// What failed the last time.
    pub texts: Vec<String>,
}

/// Something that was repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// How long ago the last time was.
    pub ago: u64,
    /// What it was.
    pub text: String,
    /// How many times it was repaired since.
    pub times: u64,
}

/// Returns a time as people say it: `3 min 20 s`.
#[must_use]
pub fn spoken(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let of = |large: u64, small: u64, names: (&str, &str)| {
        format!("{} {} {} {}", seconds / large, names.0, seconds % large / small, names.1)
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => of(MINUTE, 1, ("min", "s")),
        HOUR..DAY => of(HOUR, MINUTE, ("h", "min")),
        _ => of(DAY, HOUR, ("d", "h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spoken_in_two_units() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(spoken(seconds), expected);
        }
    }
}
