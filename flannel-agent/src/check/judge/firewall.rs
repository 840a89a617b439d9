//! What rules of the host do with packets of pods, and with the tunnel. Pure.

use crate::check::model::{Check, Finding};
use crate::netfilter::judge::passage::Passage;

/// What the rules do; `Err`: why that is not known.
pub(in crate::check) type Rules = Result<Passage, String>;

const UNKNOWN: &str =
    "install iptables or nftables, whichever writes rules on this node, and run this command as root";

/// Judges what rules do with packets between pods of this node and of others.
pub(in crate::check) fn forward(rules: &Rules) -> Finding {
    match rules {
        Ok(Passage::Open) => Check::ForwardRules.ok("no rule stops packets between pods of nodes"),
        Ok(Passage::Unsure(rule)) => Check::ForwardRules.note(
            format!("this may stop some packets between pods of nodes: {rule}"),
            "nothing, if it is a network policy or meant otherwise",
        ),
        Ok(Passage::Closed(rule)) => Check::ForwardRules.error(
            format!("this stops all packets between pods of nodes: {rule}"),
            "do not start the agent with --iptables-forward-rules=false, or accept the network of the pods before: iptables -I \
             FORWARD -s NETWORK -j ACCEPT; iptables -I FORWARD -d NETWORK -j ACCEPT",
        ),
        Err(why) => Check::ForwardRules.note(format!("not known: {why}"), UNKNOWN),
    }
}

/// The tunnel's packets.
#[derive(Clone, Copy, Debug)]
pub(in crate::check) struct Tunnel {
    /// Its UDP port.
    pub(in crate::check) port: u16,
    /// Whether BPF takes received packets before the rules see them.
    pub(in crate::check) is_early: bool,
}

/// Judges what rules do with the tunnel's packets that arrive and leave.
pub(in crate::check) fn tunnel(
    received: &Rules,
    sent: &Rules,
    Tunnel { port, is_early }: Tunnel,
) -> Vec<Finding> {
    let open = |chain: &str| {
        format!("open UDP {port} between the nodes: iptables -I {chain} -p udp --dport {port} -j ACCEPT")
    };
    let mut findings = Vec::new();
    match received {
        Ok(Passage::Open) => {}
        Ok(Passage::Unsure(rule)) => {
            findings.push(
                Check::TunnelRules
                    .note(format!("this may stop received VXLAN, UDP {port}: {rule}"), open("INPUT")),
            );
        }
        Ok(Passage::Closed(rule)) if is_early => findings.push(Check::TunnelRules.warning(
            format!("this stops received VXLAN, UDP {port}, that BPF leaves to the kernel: {rule}"),
            open("INPUT"),
        )),
        Ok(Passage::Closed(rule)) => {
            findings.push(
                Check::TunnelRules
                    .error(format!("this stops received VXLAN, UDP {port}: {rule}"), open("INPUT")),
            );
        }
        Err(why) => findings.push(Check::TunnelRules.note(format!("not known: {why}"), UNKNOWN)),
    }
    match sent {
        Ok(Passage::Open) | Err(_) => {}
        Ok(Passage::Unsure(rule)) => {
            findings.push(
                Check::TunnelRules
                    .note(format!("this may stop sent VXLAN, UDP {port}: {rule}"), open("OUTPUT")),
            );
        }
        Ok(Passage::Closed(rule)) => {
            findings.push(
                Check::TunnelRules
                    .error(format!("this stops sent VXLAN, UDP {port}: {rule}"), open("OUTPUT")),
            );
        }
    }
    if findings.is_empty() {
        findings.push(Check::TunnelRules.ok(format!("no rule of this node stops UDP {port}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    #[test]
    fn what_is_stopped_for_certain_is_an_error_and_what_may_be_a_note() {
        use Level::{Error, Note, Ok as Well, Warning};
        let rule = || "-P INPUT DROP".to_owned();
        let (open, unsure, closed) =
            (Ok(Passage::Open), Ok(Passage::Unsure(rule())), Ok(Passage::Closed(rule())));
        let unknown: Rules = Err("no iptables".to_owned());
        for (rules, expected) in [(&open, Well), (&unsure, Note), (&closed, Error), (&unknown, Note)] {
            assert_eq!(forward(rules).level, expected, "{rules:?}");
        }
        for (received, sent, is_early, expected) in [
            (&open, &open, false, &[Well][..]),
            (&closed, &open, false, &[Error]),
            (&closed, &open, true, &[Warning]),
            (&unsure, &closed, true, &[Note, Error]),
            (&open, &unsure, true, &[Note]),
            (&unknown, &unknown, true, &[Note]),
        ] {
            let found = tunnel(received, sent, Tunnel { port: 8472, is_early });
            assert_eq!(found.iter().map(|one| one.level).collect::<Vec<_>>(), expected, "{found:?}");
            assert!(received != &closed || found[0].found.ends_with(": -P INPUT DROP"), "{found:?}");
        }
    }
}
