//! Whether a network works, and if not why. Pure.

use super::agent::Agent;
use super::model::{NetworkStatus, PeerStatus, Reason, Role, State, Way};
use crate::report::{AgentReport, Lease, spoken};

/// So many peers without a route are named.
const NAMED: usize = 3;

impl NetworkStatus {
    /// Adds the reasons why it is not well, and with them its state.
    pub(super) fn judged(mut self) -> Self {
        let mut reasons = Vec::new();
        let mut because = |state, text: String| {
            let reason = Reason { state, text };
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        };
        self.packets(&mut because);
        self.agent(&mut because);
        self.unread
            .iter()
            .for_each(|text| because(State::Degraded, format!("not everything can be read: {text}")));
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.state));
        self.state = reasons.first().map(|reason| reason.state).unwrap_or_default();
        self.reasons = reasons;
        self
    }

    /// What carries packets.
    fn packets(&self, because: &mut impl FnMut(State, String)) {
        if self.subnets.is_empty() {
            let text = match (&self.agent, &self.subnet_file) {
                (Agent::Absent, Some(file)) => {
                    format!("no agent has run here: there is no subnet in {}", file.display())
                }
                _ => "the node has no subnet".to_owned(),
            };
            return because(State::NotWorking, text);
        }
        for device in &self.devices {
            let role = match device.role {
                Role::Overlay => "the vxlan device",
                Role::Uplink => "the uplink",
            };
            let name = &device.name;
            match (device.present, device.up) {
                (false, _) => because(State::NotWorking, format!("{role} {name} is missing")),
                (true, false) => because(State::NotWorking, format!("{role} {name} is down")),
                (true, true) => {}
            }
        }
        if self.backend.as_deref() == Some("udp")
            && matches!(self.agent, Agent::Absent | Agent::Silent { .. })
        {
            because(
                State::NotWorking,
                "the backend udp carries packets only while the agent runs".to_owned(),
            );
        }
        let missing: Vec<_> = self.peers.iter().filter(|peer| peer.way == Way::Missing).collect();
        if !missing.is_empty() {
            because(State::Degraded, without_route(&missing, self.peers.len()));
        }
        for program in self.programs.iter().filter(|program| !program.of_ports && !program.missing.is_empty())
        {
            let places = program.missing.join(", ");
            because(State::Degraded, format!("the program {} is not attached to {places}", program.program));
        }
    }

    fn agent(&self, because: &mut impl FnMut(State, String)) {
        match &self.agent {
            Agent::Answers { report } => report.judge(because),
            Agent::Silent { why, .. } => because(State::Degraded, format!("the agent {why}")),
            Agent::Absent => because(
                State::Degraded,
                "the agent does not run: what it has set up stays, nobody follows changes or renews the lease".to_owned(),
            ),
            Agent::Closed { why } => because(State::Degraded, format!("the agent cannot be asked: {why}")),
        }
    }
}

fn without_route(missing: &[&PeerStatus], all: usize) -> String {
    let named: Vec<_> = missing.iter().take(NAMED).map(|peer| peer.subnet.as_str()).collect();
    let more = if missing.len() > NAMED { ", ..." } else { "" };
    format!("{} of {all} peers have no route: {}{more}", missing.len(), named.join(", "))
}

impl AgentReport {
    fn judge(&self, because: &mut impl FnMut(State, String)) {
        let mut degraded = |text: String| because(State::Degraded, text);
        if !self.ready {
            degraded("the agent is not ready".to_owned());
        }
        let why = self.datastore.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        match (self.datastore.connected, self.datastore.since) {
            (true, _) => {}
            (false, None) => degraded(format!("the datastore has not answered since the agent's start{why}")),
            (false, Some(since)) => {
                degraded(format!("the datastore has not answered for {}{why}", spoken(since)));
            }
        }
        if self.lease == Lease::None && self.datastore.connected {
            degraded("the node has no lease in the datastore".to_owned());
        }
        if self.held_nodes > 0 {
            let (held, nodes) = (self.held_nodes, self.nodes);
            degraded(format!("{held} of {nodes} nodes have vanished from the datastore, and are held"));
        }
        let shortcoming = self.carrying.iter().find_map(|carrying| carrying.shortcoming.as_ref());
        shortcoming.into_iter().for_each(|text| degraded(text.clone()));
        for problem in &self.problems {
            for text in problem.texts.iter().filter(|text| Some(*text) != shortcoming) {
                degraded(format!("{}, for {}: {text}", problem.kind, spoken(problem.lasts)));
            }
        }
    }
}
