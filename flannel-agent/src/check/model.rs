//! What the checks find: what text and JSON are made from.

use std::net::IpAddr;

use serde::Serialize;

use crate::status::model::Way;

/// Version of the JSON. It rises when a field goes or gets another meaning.
pub const SCHEMA: u32 = 1;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is as it should be.
    #[default]
    Ok,
    /// Worth knowing. It does no harm by itself, or cannot be told.
    Note,
    /// Some packets are lost or slow, or will be.
    Warning,
    /// Pods do not reach other pods, or will not.
    Error,
}

impl Level {
    /// Returns the exit status of the command.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Ok | Self::Note => 0,
            Self::Warning => 1,
            Self::Error => 2,
        }
    }

    /// Returns its name, as JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Declares [`Check`] with names and titles.
macro_rules! checks {
    ($($(#[doc = $doc:literal])* $check:ident = $name:literal, $title:literal;)*) => {
        /// What is checked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check {
            $($(#[doc = $doc])* $check,)*
        }

        impl Check {
            /// All of them, in the order of the output.
            pub const ALL: &[Self] = &[$(Self::$check),*];

            /// Returns its name in the JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$check => $name,)*
                }
            }

            /// Returns its title for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$check => $title,)*
                }
            }
        }
    };
}

checks! {
    /// What `flannel-agent status` says.
    Agent = "agent", "Agent and status";
    /// What the kernel has for the programs.
    Bpf = "bpf", "BPF in the kernel";
    /// What the agent's process may do.
    Capabilities = "capabilities", "Capabilities of the agent";
    /// The filesystem of the pins.
    Bpffs = "bpffs", "BPF filesystem";
    /// Whether the host forwards packets.
    Forwarding = "forwarding", "IP forwarding";
    /// The reverse path filter.
    ReversePath = "reverse-path", "Reverse path filter";
    /// br_netfilter.
    Bridged = "bridged-packets", "Bridged packets and iptables";
    /// Rules for forwarded packets.
    ForwardRules = "forward-rules", "Firewall rules for pods";
    /// Rules for outer packets.
    TunnelRules = "tunnel-rules", "Firewall rules for the tunnel";
    /// Lengths of packets by the interfaces of this node.
    Mtu = "mtu", "MTU of this node's interfaces";
    /// The vxlan devices.
    Devices = "devices", "Tunnel devices";
    /// Public addresses in the leases.
    SharedAddress = "shared-address", "Public addresses of the nodes";
    /// MACs in the leases.
    SharedMac = "shared-mac", "VTEP MACs of the nodes";
    /// The identity of the machine.
    MachineId = "machine-id", "Machine ID";
    /// The configuration of the container runtime.
    Cni = "cni", "CNI configuration";
    /// Other daemons of the same network.
    OtherAgents = "other-agents", "Other agents on this node";
    /// BPF programs of others.
    OtherPrograms = "other-programs", "BPF programs of others";
    /// NetworkManager.
    NetworkManager = "network-manager", "NetworkManager";
    /// systemd-networkd.
    Networkd = "networkd", "systemd-networkd";
    /// The clock.
    Clock = "clock", "Clock";
    /// Whether small packets reach the other nodes.
    Peers = "peers", "Other nodes answer";
    /// Whether the longest packets reach the other nodes.
    FullPackets = "full-packets", "Full packets reach other nodes";
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name.
    pub check: &'static str,
    /// Its title.
    pub title: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; `None` if nothing is to be done.
    pub remedy: Option<String>,
    /// The network that it is about, if the node belongs to several.
    pub network: Option<String>,
}

impl Check {
    fn finding(self, level: Level, found: String, remedy: Option<String>) -> Finding {
        Finding { check: self.name(), title: self.title(), level, found, remedy, network: None }
    }

    /// Returns that all is well.
    pub(super) fn ok(self, found: impl Into<String>) -> Finding {
        self.finding(Level::Ok, found.into(), None)
    }

    /// Returns what is worth knowing, and what may be done.
    pub(super) fn note(self, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Level::Note, found.into(), Some(remedy.into()))
    }

    /// Returns a warning, and what to do.
    pub(super) fn warning(self, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Level::Warning, found.into(), Some(remedy.into()))
    }

    /// Returns an error, and what to do.
    pub(super) fn error(self, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Level::Error, found.into(), Some(remedy.into()))
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The worst level.
    pub level: Level,
    /// The findings, in the order of [`Check::ALL`].
    pub findings: Vec<Finding>,
    /// The other nodes that were probed.
    pub peers: Vec<ProbedPeer>,
}

impl Report {
    /// Returns the report of these findings.
    #[must_use]
    pub fn of(mut findings: Vec<Finding>, peers: Vec<ProbedPeer>) -> Self {
        let place = |finding: &Finding| Check::ALL.iter().position(|check| check.name() == finding.check);
        findings.sort_by_key(place);
        let level = findings.iter().map(|finding| finding.level).max().unwrap_or_default();
        Self { schema: SCHEMA, level, findings, peers }
    }
}

/// How packets get to another node, measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbedPeer {
    /// Its subnet.
    pub subnet: String,
    /// Its public address.
    pub public_ip: IpAddr,
    /// How packets should get there.
    pub way: Way,
    /// Small echo requests that were sent through the tunnel.
    pub sent: usize,
    /// How many of them were answered.
    pub answered: usize,
    /// Round trip times in microseconds; `None` without an answer.
    pub round_trip_us: Option<RoundTrips>,
    /// The length in bytes of the longest IP packet that pods send; `None` if it was not probed.
    pub full_bytes: Option<u16>,
    /// The length in bytes of the longest IP packet that was answered; `None` if that was not found out.
    pub longest_answered: Option<u16>,
    /// Whether the public address answers outside of the tunnel.
    pub underlay_answers: bool,
}

/// Round trip times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RoundTrips {
    /// The shortest.
    pub min: u64,
    /// The one in the middle.
    pub median: u64,
    /// The longest.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_exit_status_and_the_order_is_that_of_the_list() {
        let findings = vec![Check::Clock.note("b", "c"), Check::Agent.ok("a"), Check::Mtu.warning("d", "e")];
        let report = Report::of(findings, Vec::new());
        assert_eq!((report.level, report.level.exit_status()), (Level::Warning, 1));
        let names: Vec<_> = report.findings.iter().map(|finding| finding.check).collect();
        assert_eq!(names, ["agent", "mtu", "clock"]);
        assert_eq!(Report::of(Vec::new(), Vec::new()).level.exit_status(), 0);
        assert_eq!(Level::Note.exit_status(), 0);
        assert_eq!(Level::Error.exit_status(), 2);
    }

    #[test]
    fn names_and_titles_are_unique() {
        for (number, check) in Check::ALL.iter().enumerate() {
            let others = &Check::ALL[number + 1..];
            assert!(
                others.iter().all(|other| other.name() != check.name() && other.title() != check.title())
            );
        }
    }
}
