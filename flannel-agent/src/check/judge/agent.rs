//! What `flannel-agent status` says. Pure.

use crate::check::model::{Check, Finding};
use crate::status::agent::Agent;
use crate::status::model::{NetworkStatus, State};

/// Returns a finding for each reason why the network is not well.
pub(in crate::check) fn status(network: &NetworkStatus) -> Vec<Finding> {
    let finding = |state: State, text: &str| match state {
        State::Well => Check::Agent.note(text, remedy(&network.agent)),
        State::Degraded => Check::Agent.warning(text, remedy(&network.agent)),
        State::NotWorking => Check::Agent.error(text, remedy(&network.agent)),
    };
    let findings: Vec<_> = network.reasons.iter().map(|reason| finding(reason.state, &reason.text)).collect();
    if findings.is_empty() {
        vec![Check::Agent.ok("the agent runs, and says that all is well")]
    } else {
        findings
    }
}

const fn remedy(agent: &Agent) -> &'static str {
    match agent {
        Agent::Answers { .. } => {
            "flannel-agent status shows more, and so does the agent's log: journalctl -u flannel-agent, or kubectl -n kube-flannel \
             logs POD -c kube-flannel"
        }
        Agent::Silent { .. } => {
            "look at the process (a stopped one goes on after kill -CONT PID), and start the agent again if that does not help: \
             packets are carried meanwhile"
        }
        Agent::Absent => {
            "start the agent: systemctl start flannel-agent, or kubectl -n kube-flannel get pods -o wide to see why its pod does \
             not run. If its files are elsewhere, set --subnet-file and --bpffs"
        }
        Agent::Closed { .. } => "run this command as root",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;
    use crate::status::model::Reason;

    #[test]
    fn each_reason_of_the_status_is_a_finding_of_its_level() {
        let reason = |state, text: &str| Reason { state, text: text.to_owned() };
        let reasons = vec![reason(State::NotWorking, "no subnet"), reason(State::Degraded, "no agent")];
        let found = status(&NetworkStatus { reasons, ..NetworkStatus::default() });
        let levels: Vec<_> = found.iter().map(|finding| (finding.level, finding.found.as_str())).collect();
        assert_eq!(levels, [(Level::Error, "no subnet"), (Level::Warning, "no agent")]);
        assert!(found[0].remedy.as_ref().unwrap().contains("systemctl start flannel-agent"));
        assert_eq!(status(&NetworkStatus::default())[0].level, Level::Ok);
    }
}
