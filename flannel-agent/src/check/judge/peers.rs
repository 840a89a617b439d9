//! What the probes of the other nodes mean. Pure.

use crate::check::model::{Check, Finding, ProbedPeer, RoundTrips};
use crate::check::text::milliseconds;
use crate::status::model::Way;

/// So many nodes are named one by one.
const NAMED: usize = 10;

/// How the nodes of a network are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::check) struct Paths {
    /// The UDP port of the tunnel; `None` without a tunnel.
    pub(in crate::check) port: Option<u16>,
    /// What the tunnel adds to a packet, in bytes.
    pub(in crate::check) overhead: u16,
    /// Whether nodes have an address in their subnets as soon as they run. Without a tunnel they have one with the first pod.
    pub(in crate::check) have_addresses: bool,
}

/// Judges whether the other nodes answer, and whether full packets reach them.
pub(in crate::check) fn judge(peers: &[ProbedPeer], paths: Paths) -> Vec<Finding> {
    if peers.is_empty() {
        return vec![Check::Peers.ok("there are none to probe")];
    }
    let mut findings = Vec::new();
    let answering = peers.iter().filter(|peer| peer.answered > 0).count();
    add(&mut findings, peers, |peer| answers(peer, paths, answering == 0));
    if findings.is_empty() {
        findings.push(Check::Peers.ok(format!("{} of {} answer{}", answering, peers.len(), times(peers))));
    }
    let before = findings.len();
    add(&mut findings, peers, |peer| full(peer, paths));
    let probed = peers.iter().filter(|peer| peer.answered > 0 && peer.full_bytes.is_some()).count();
    if findings.len() == before && probed > 0 {
        let bytes = peers.iter().filter_map(|peer| peer.full_bytes).max().unwrap_or_default();
        findings.push(Check::FullPackets.ok(format!("{bytes} bytes reach all nodes that answer")));
    }
    findings
}

/// Adds the findings about single nodes, not more than can be read.
fn add(findings: &mut Vec<Finding>, peers: &[ProbedPeer], judge: impl Fn(&ProbedPeer) -> Option<Finding>) {
    let mut found: Vec<_> = peers.iter().filter_map(judge).collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    if let Some(last) = found.last_mut().filter(|_| more > 0) {
        last.found = format!("{} (and {more} more nodes)", last.found);
    }
    findings.append(&mut found);
}

fn answers(peer: &ProbedPeer, paths: Paths, is_silence: bool) -> Option<Finding> {
    let ProbedPeer { subnet, public_ip, way, sent, answered, underlay_answers, .. } = peer;
    if *way == Way::Missing {
        let remedy = "a running agent writes routes at once: see the agent's log, or start it";
        return Some(Check::Peers.error(format!("{subnet} at {public_ip}: no route leads there"), remedy));
    }
    let lost = sent.saturating_sub(*answered);
    match (*answered, underlay_answers) {
        _ if *sent == 0 || lost == 0 => None,
        (0, true) if !paths.have_addresses => Some(Check::Peers.note(
            format!("{subnet} at {public_ip}: the node answers, and its pods' gateway does not"),
            if *way == Way::Cloud {
                "nothing if no pod has run there yet: the gateway's address comes with the first pod. Else look for the route to that \
                 subnet in the cloud's route table, and for what the agent of that node logs about the cloud"
            } else {
                "nothing if no pod has run there yet: the gateway's address comes with the first pod"
            },
        )),
        (0, true) => {
            let found = format!("{subnet} at {public_ip}: the underlay works, the tunnel does not");
            Some(Check::Peers.error(found, blocked(*way, paths.port)))
        }
        (0, false) => {
            let found = format!("{subnet} at {public_ip}: neither the tunnel nor the node itself answers");
            let remedy = "is the node up, and is this its address? A lease of a node that is gone ends within 24 h. If it is up, the \
                          network between the nodes is interrupted, or this node's own: ip route get ADDRESS, ping ADDRESS";
            Some(if is_silence { Check::Peers.error(found, remedy) } else { Check::Peers.warning(found, remedy) })
        }
        _ => Some(Check::Peers.warning(
            format!("{subnet} at {public_ip}: {lost} of {sent} packets are lost"),
            "look for errors and drops at uplinks and switches: ip -s link show, ethtool -S UPLINK. flannel-agent counters on both nodes \
             tells what the programs drop",
        )),
    }
}

fn blocked(way: Way, port: Option<u16>) -> String {
    match port.filter(|_| way != Way::OnLink) {
        Some(port) => format!(
            "is UDP {port} open between the nodes? Look for firewalls and security groups, in both directions; tcpdump -ni UPLINK udp \
             port {port} on both nodes shows where packets end. Run flannel-agent check there too. If they arrive: flannel-agent \
             counters there"
        ),
        None => "do switches, routers or the cloud drop packets with pods' addresses (source/destination check)? Run flannel-agent \
                 check on that node too"
            .to_owned(),
    }
}

fn full(peer: &ProbedPeer, paths: Paths) -> Option<Finding> {
    let ProbedPeer { subnet, public_ip, full_bytes, longest_answered, .. } = peer;
    let full = full_bytes.filter(|_| peer.answered > 0)?;
    let Some(longest) = *longest_answered else {
        return Some(Check::FullPackets.error(
            format!("{subnet} at {public_ip}: packets of {full} bytes are lost"),
            "flannel-agent check --peer NODE finds the longest that arrive, and what to set",
        ));
    };
    let outer = longest + paths.overhead;
    (longest < full).then(|| {
        Check::FullPackets.error(
            format!("{subnet} at {public_ip}: packets of {full} bytes are lost, those of up to {longest} arrive"),
            format!(
                "the path between the nodes carries {outer} bytes, less than the uplink: raise the MTU of the link or VPN between \
                 them, or set Backend.MTU to {outer} on all nodes. Pods keep their MTU until they are made anew"
            ),
        )
    })
}

/// Returns the shortest, middle and longest round trip of all, in words.
fn times(peers: &[ProbedPeer]) -> String {
    let times: Vec<_> = peers.iter().filter_map(|peer| peer.round_trip_us).collect();
    let mut medians: Vec<_> = times.iter().map(|times| times.median).collect();
    medians.sort_unstable();
    let min = times.iter().map(|RoundTrips { min, .. }| *min).min();
    let max = times.iter().map(|RoundTrips { max, .. }| *max).max();
    match (min, medians.get(medians.len() / 2), max) {
        (Some(min), Some(median), Some(max)) => {
            let [min, median, max] = [min, *median, max].map(milliseconds);
            format!(" within {min}/{median}/{max} ms (shortest/median/longest)")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    const TUNNEL: Paths = Paths { port: Some(8472), overhead: 50, have_addresses: true };
    const ROUTES: Paths = Paths { port: None, overhead: 0, have_addresses: false };

    fn well() -> ProbedPeer {
        ProbedPeer {
            subnet: "10.5.2.0/24".to_owned(),
            public_ip: [192, 168, 64, 2].into(),
            way: Way::Vxlan,
            sent: 5,
            answered: 5,
            round_trip_us: Some(RoundTrips { min: 100, median: 200, max: 300 }),
            full_bytes: Some(1450),
            longest_answered: Some(1450),
            underlay_answers: true,
        }
    }

    fn silent(underlay_answers: bool) -> ProbedPeer {
        ProbedPeer { answered: 0, round_trip_us: None, longest_answered: None, underlay_answers, ..well() }
    }

    #[test]
    fn each_way_to_fail_has_its_words() {
        use Level::{Error, Note, Ok as Well, Warning};
        for (peers, paths, expected, words) in [
            (vec![well()], TUNNEL, &[Well, Well][..], "1 of 1 answer within 0.10/0.20/0.30 ms"),
            (vec![silent(true)], TUNNEL, &[Error], "the underlay works, the tunnel does not"),
            (vec![silent(true), well()], TUNNEL, &[Error, Well], "the underlay works, the tunnel does not"),
            (vec![silent(true)], ROUTES, &[Note], "its pods' gateway does not"),
            (vec![silent(false)], TUNNEL, &[Error], "neither"),
            (vec![silent(false), well()], TUNNEL, &[Warning, Well], "neither"),
            (vec![ProbedPeer { answered: 3, ..well() }], TUNNEL, &[Warning, Well], "2 of 5 packets are lost"),
            (
                vec![ProbedPeer { way: Way::Missing, ..silent(true) }],
                TUNNEL,
                &[Error],
                "no route leads there",
            ),
            (
                vec![ProbedPeer { sent: 0, full_bytes: None, ..silent(false) }],
                TUNNEL,
                &[Well],
                "0 of 1 answer",
            ),
            (vec![], TUNNEL, &[Well], "there are none"),
        ] {
            let found = judge(&peers, paths);
            assert_eq!(found.iter().map(|one| one.level).collect::<Vec<_>>(), expected, "{found:?}");
            assert!(found[0].found.contains(words), "{found:?}");
        }
        let remedy = judge(&[silent(true)], TUNNEL)[0].remedy.clone().unwrap();
        assert!(remedy.starts_with("is UDP 8472 open between the nodes?"), "{remedy}");
    }

    #[test]
    fn the_longest_packet_that_passes_is_named_with_what_the_path_carries() {
        let found = judge(&[ProbedPeer { longest_answered: Some(1350), ..well() }], TUNNEL);
        assert_eq!((found[0].level, found[1].level), (Level::Ok, Level::Error));
        assert!(
            found[1].found.contains("packets of 1450 bytes are lost, those of up to 1350 arrive"),
            "{found:?}"
        );
        assert!(found[1].remedy.as_ref().unwrap().contains("set Backend.MTU to 1400"), "{found:?}");
    }

    #[test]
    fn of_many_nodes_one_may_not_be_searched() {
        let found = judge(&[ProbedPeer { longest_answered: None, ..well() }], TUNNEL);
        assert_eq!(
            (found[1].level, found[1].found.ends_with("of 1450 bytes are lost")),
            (Level::Error, true),
            "{found:?}"
        );
    }

    #[test]
    fn of_many_nodes_some_are_named() {
        let found = judge(&vec![silent(true); 300], TUNNEL);
        assert_eq!(found.len(), NAMED);
        assert!(found[NAMED - 1].found.ends_with("(and 290 more nodes)"), "{found:?}");
    }
}
