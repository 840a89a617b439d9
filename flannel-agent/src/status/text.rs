//! Formats the state as text for one screen.

use std::fmt::{self, Display};

use super::agent::Agent;
use super::model::{Device, NetworkStatus, ProgramStatus, Role, State, Status, Traffic, Way};
use crate::output::clean;
use crate::report::{AgentReport, Lease, Repair, spoken};

/// So many peers, interfaces or ports are shown.
const SHOWN: usize = 8;

/// The text of a state.
pub(super) struct Text<'a> {
    pub(super) status: &'a Status,
    /// Whether words have colours.
    pub(super) colour: bool,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, network) in self.status.networks.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            let name = network.network.as_deref().unwrap_or("flannel");
            line(f, name, self.painted(network.state, said(network.state)))?;
            for reason in &network.reasons {
                line(f, "because", self.painted(reason.state, &clean(&reason.text)))?;
            }
            network.fmt(f)?;
        }
        Ok(())
    }
}

impl Text<'_> {
    fn painted(&self, state: State, text: &str) -> String {
        let colour = match state {
            State::Well => 32,
            State::Degraded => 33,
            State::NotWorking => 31,
        };
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

const fn said(state: State) -> &'static str {
    match state {
        State::Well => "works",
        State::Degraded => "works, and something is not as it should be",
        State::NotWorking => "does not work",
    }
}

fn line(f: &mut fmt::Formatter<'_>, label: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "{label:<12} {text}")
}

/// Returns the first of these, and how many more there are.
fn some(all: &[String]) -> String {
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl NetworkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = match &self.agent {
            Agent::Answers { report } => Some(report.as_ref()),
            Agent::Silent { .. } | Agent::Absent | Agent::Closed { .. } => None,
        };
        line(f, "agent", &self.agent)?;
        line(f, "subnet", self.subnet(report))?;
        line(f, "dataplane", self.dataplane())?;
        if self.devices.iter().all(|device| device.role != Role::Uplink)
            && let Some(carrying) = report.and_then(|report| report.carrying.as_ref())
        {
            line(f, "uplink", clean(&carrying.uplink))?;
        }
        for device in &self.devices {
            line(f, if device.role == Role::Uplink { "uplink" } else { "device" }, device)?;
        }
        line(f, "datastore", self.datastore(report))?;
        line(f, "firewall", firewall(report))?;
        self.write_peers(f)?;
        for (number, program) in self.programs.iter().enumerate() {
            line(f, if number == 0 { "programs" } else { "" }, program)?;
        }
        self.write_ports(f, report)?;
        self.traffic.iter().try_for_each(|traffic| traffic.fmt(f))?;
        let repairs = report.map(|report| &report.repairs[..]).unwrap_or_default();
        for (number, repair) in repairs.iter().enumerate() {
            line(f, if number == 0 { "repaired" } else { "" }, repair)?;
        }
        Ok(())
    }

    fn subnet(&self, report: Option<&AgentReport>) -> String {
        if self.subnets.is_empty() {
            return "none".to_owned();
        }
        let mut text = self.subnets.join(" and ");
        if !self.prefixes.is_empty() {
            text += &format!(" of {}", self.prefixes.join(" and "));
        }
        text += &self.mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
        match report.map(|report| report.lease) {
            Some(Lease::Ends { left }) => {
                text + &format!("; the lease ends in {} unless it is renewed", spoken(left))
            }
            Some(Lease::Reserved) => text + "; reserved, without an end",
            Some(Lease::None) => text + "; the datastore has not confirmed the lease",
            None => text + "; when the lease ends only the agent knows",
        }
    }

    fn dataplane(&self) -> String {
        let name = match self.dataplane.as_deref() {
            Some("netlink") => "the kernel's vxlan device",
            Some(name) => name,
            None => "not known",
        };
        let why = self.without_bpf.as_ref().map(|why| format!(", without BPF: {}", clean(why)));
        format!("{name}{}", why.unwrap_or_default())
    }

    fn datastore(&self, report: Option<&AgentReport>) -> String {
        let Some(datastore) = report.map(|report| &report.datastore) else {
            let name = self.datastore.as_deref().unwrap_or("not known");
            return format!("{}; whether it answers only the agent knows", clean(name));
        };
        let name = clean(&datastore.name);
        let last =
            datastore.last_change.map(|ago| format!(", last change {} ago", spoken(ago))).unwrap_or_default();
        match (datastore.connected, datastore.since) {
            (true, since) => format!("{name}, connected for {}{last}", spoken(since.unwrap_or_default())),
            (false, Some(since)) => format!("{name}, away for {}{last}", spoken(since)),
            (false, None) => format!("{name}, has not answered yet"),
        }
    }

    fn write_peers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WAYS: [Way; 7] =
            [Way::Vxlan, Way::OnLink, Way::Floor, Way::Udp, Way::Cloud, Way::Other, Way::Missing];
        let count = |way: Way| (way, self.peers.iter().filter(|peer| peer.way == way).count());
        let counted = WAYS.map(count).into_iter().filter(|(_, count)| *count > 0);
        let counted: Vec<_> = counted.map(|(way, count)| format!("{count} {}", way.name())).collect();
        line(f, "peers", if counted.is_empty() { "none".to_owned() } else { counted.join(", ") })?;
        // What is wrong first.
        let (missing, others): (Vec<_>, Vec<_>) =
            self.peers.iter().partition(|peer| peer.way == Way::Missing);
        missing.into_iter().chain(others).take(SHOWN).try_for_each(|peer| line(f, "", peer))?;
        match self.peers.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => line(f, "", format_args!("and {more} more: flannel-agent peers")),
        }
    }

    fn write_ports(&self, f: &mut fmt::Formatter<'_>, report: Option<&AgentReport>) -> fmt::Result {
        if !self.programs.is_empty() {
            line(f, "ports", format_args!("{} may take the shortcut", self.fast_ports))?;
        }
        let Some(carrying) = report.and_then(|report| report.carrying.as_ref()) else { return Ok(()) };
        for slow in carrying.slow_ports.iter().take(SHOWN) {
            line(f, "", format_args!("{} does not: {}", clean(&slow.port), clean(&slow.why)))?;
        }
        match carrying.slow_ports_in_all.saturating_sub(SHOWN) {
            0 => Ok(()),
            more => line(f, "", format_args!("and {more} more do not")),
        }
    }
}

impl Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { report } => {
                let AgentReport { pid, runs_for, version, ready, .. } = report.as_ref();
                let ready = if *ready { "ready" } else { "not ready" };
                write!(f, "runs for {} (pid {pid}, version {}), {ready}", spoken(*runs_for), clean(version))
            }
            Self::Silent { pid: Some(pid), why } => write!(f, "pid {pid} {why}"),
            Self::Silent { pid: None, why } => f.write_str(why),
            Self::Absent => f.write_str("does not run"),
            Self::Closed { why } => write!(f, "cannot be asked: {}", clean(why)),
        }
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, present, up, mtu, address, .. } = self;
        if !present {
            return write!(f, "{name}, missing");
        }
        let address = address.map(|address| format!(", {address}")).unwrap_or_default();
        write!(f, "{name}{address}, MTU {mtu}, {}", if *up { "up" } else { "down" })
    }
}

impl Display for ProgramStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, interfaces, missing, of_ports, .. } = self;
        let places = if interfaces.is_empty() { "nowhere".to_owned() } else { some(interfaces) };
        write!(f, "{program:<16} {places}")?;
        if !missing.is_empty() {
            let why = if *of_ports { "not yet at" } else { "missing at" };
            write!(f, ", {why} {}", some(missing))?;
        }
        if let Some(runs) = self.runs {
            write!(f, ", {runs} run{}", if runs == 1 { "" } else { "s" })?;
        }
        self.nanoseconds_a_run.iter().try_for_each(|time| write!(f, ", {time} ns each"))
    }
}

impl Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some([shortcut, programs, floor]) = self.shares().map(|shares| shares.map(percent)) {
            let all = self.shortcut + self.programs + self.floor;
            let shares = format_args!("{shortcut} shortcut, {programs} programs, {floor} floor, of {all}");
            line(f, "packets", shares)?;
        } else {
            line(f, "packets", "none yet")?;
        }
        for (number, drop) in self.drops.iter().enumerate() {
            let label = if number == 0 { "drops" } else { "" };
            line(f, label, format_args!("{} {}: {}", drop.packets, drop.outcome, drop.meaning))?;
        }
        Ok(())
    }
}

fn percent(tenths: u64) -> String {
    format!("{}.{} %", tenths / 10, tenths % 10)
}

impl Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = if self.times > 1 { format!(" ({} times)", self.times) } else { String::new() };
        write!(f, "{} ago: {}{times}", spoken(self.ago), clean(&self.text))
    }
}

fn firewall(report: Option<&AgentReport>) -> String {
    match report.map(|report| &report.firewall) {
        Some(Some(rules)) => format!("{}, complete {} ago", clean(&rules.tool), spoken(rules.complete)),
        Some(None) => "rules are not complete yet".to_owned(),
        None => "only the agent knows".to_owned(),
    }
}
