//! Asks the other nodes at an interval whether they can be reached through the network, if the agent is told to. Nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{self, sleep_until};

use crate::metrics::{FailureKind, METRICS, Reachable};
use crate::peer::Peer;
use crate::probe::{Prober, Request, address_in, small};
use crate::problem::{Pace, Problem};

/// So many nodes are asked each time: the kernel's table of neighbours has room for 1024, by default.
const AT_ONCE: usize = 500;
/// A node that does not answer is asked so often.
const TRIES: usize = 3;
/// How long answers are waited for, each time.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the other nodes.
pub(super) struct Reachability {
    /// `None`: nothing is asked.
    interval: Option<Duration>,
    /// Whether other nodes have a device for the tunnel, which answers.
    have_devices: bool,
    next: time::Instant,
    running: Option<JoinHandle<Result<Vec<Answer>>>>,
    /// What came of the last questions, until [`Self::step`].
    finished: Option<Result<Vec<Answer>>>,
    known: BTreeMap<IpNet, Answer>,
    /// The last one that was asked.
    last: Option<IpNet>,
    problem: Problem,
    broken: Problem,
}

/// What a node has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    peer: Peer,
    /// Whether it has answered through the network.
    inside: bool,
    /// Whether its public address has answered. It is asked only if nothing has come through the network.
    outside: bool,
}

impl Reachability {
    /// `interval`: zero turns it off. `have_devices`: see [`address_in`].
    pub(super) fn new(interval: Duration, have_devices: bool) -> Self {
        Self {
            interval: (!interval.is_zero()).then_some(interval),
            have_devices,
            next: time::Instant::now() + interval,
            running: None,
            finished: None,
            known: BTreeMap::new(),
            last: None,
            problem: Problem::new(FailureKind::Unreachable, "all other nodes answer", Pace::STEADY),
            broken: Problem::new(FailureKind::Unreachable, "other nodes can be asked", Pace::STEADY),
        }
    }

    /// Waits until [`Self::step`] is to be called. It may be dropped and called again.
    pub(super) async fn due(&mut self) {
        let Some(interval) = self.interval else { return std::future::pending().await };
        match &mut self.running {
            Some(running) => {
                let result = running.await.context("asking other nodes").flatten();
                (self.running, self.finished) = (None, Some(result));
            }
            None => sleep_until(self.next).await,
        }
        self.next = time::Instant::now() + interval;
    }

    /// Asks some of these nodes, or takes the answers of those that were asked.
    pub(super) fn step(&mut self, peers: &[Peer]) {
        match self.finished.take() {
            Some(Ok(answers)) => {
                self.broken.solved();
                self.learn(peers, answers);
            }
            Some(Err(error)) => {
                self.broken.observed(vec![format!("other nodes cannot be asked: {error:#}")]);
            }
            None => {
                let chosen = next_after(self.last, peers, AT_ONCE);
                self.last = chosen.last().map(|peer| peer.subnet);
                let have_devices = self.have_devices;
                self.running = Some(spawn_blocking(move || ask(&chosen, have_devices)));
            }
        }
    }

    fn learn(&mut self, peers: &[Peer], answers: Vec<Answer>) {
        self.known.extend(answers.into_iter().map(|answer| (answer.peer.subnet, answer)));
        // A node with another address is another one.
        self.known.retain(|_, answer| peers.contains(&answer.peer));
        let reachable = |peer: &Peer| {
            let answer = self.known.get(&peer.subnet);
            answer.map_or(Reachable::Unknown, |answer| answer.reachable(self.have_devices))
        };
        METRICS.set_reachable(peers.iter().map(|peer| (peer.subnet, reachable(peer))));
        let silent =
            self.known.values().filter(|answer| answer.reachable(self.have_devices) == Reachable::No);
        self.problem.observed(silent.map(Answer::complaint).collect());
    }
}

impl Answer {
    const fn reachable(&self, have_devices: bool) -> Reachable {
        match (self.inside, self.outside) {
            (true, _) => Reachable::Yes,
            (false, true) if !have_devices => Reachable::Unknown,
            (false, _) => Reachable::No,
        }
    }

    fn complaint(&self) -> String {
        let Peer { subnet, public_ip, .. } = self.peer;
        let outside = if self.outside { "its public address does" } else { "nor does its public address" };
        format!(
            "the node of {subnet} does not answer through the network, {outside}: `flannel-agent check --peer {public_ip}` looks for the cause"
        )
    }
}

/// Returns the peers that follow this one by their subnets, and the first ones after the last. Each at most once.
fn next_after(last: Option<IpNet>, peers: &[Peer], count: usize) -> Vec<Peer> {
    let mut sorted: Vec<_> = peers.iter().collect();
    sorted.sort_unstable_by_key(|peer| (last.is_none_or(|last| peer.subnet <= last), peer.subnet));
    sorted.into_iter().take(count).cloned().collect()
}

/// Asks these nodes, and returns what they have answered.
///
/// # Errors
/// No privilege (`CAP_NET_RAW`), or the kernel refuses the sockets.
fn ask(peers: &[Peer], have_devices: bool) -> Result<Vec<Answer>> {
    let tries = u32::try_from(TRIES + 1).unwrap_or(u32::MAX);
    let mut prober = Prober::new(Instant::now() + PATIENCE * tries)?;
    for attempt in 0..=TRIES {
        let is_underlay = attempt == TRIES;
        let answered = answered(&prober, false);
        prober.begin();
        for (target, peer) in peers.iter().enumerate().filter(|(number, _)| !answered.contains(number)) {
            let to = if is_underlay { peer.public_ip } else { address_in(peer.subnet, have_devices) };
            let length = small(to.is_ipv6());
            prober.send(Request { target, is_underlay, from: None, to, length })?;
        }
        prober.wait(PATIENCE)?;
    }
    let (inside, outside) = (answered(&prober, false), answered(&prober, true));
    let answer = |(number, peer): (usize, &Peer)| Answer {
        peer: peer.clone(),
        inside: inside.contains(&number),
        outside: outside.contains(&number),
    };
    Ok(peers.iter().enumerate().map(answer).collect())
}

/// Returns the numbers of the nodes that have answered, through the network or at their public addresses.
fn answered(prober: &Prober, is_underlay: bool) -> BTreeSet<usize> {
    let sent = prober.sent().iter().filter(|sent| sent.is_underlay == is_underlay && sent.answer.is_some());
    sent.map(|sent| sent.target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> Peer {
        let subnet = format!("10.5.{number}.0/24").parse().unwrap();
        Peer { subnet, public_ip: [192, 0, 2, number].into(), vtep_mac: None }
    }

    #[test]
    fn all_nodes_have_their_turn() {
        let peers = [3, 1, 4, 2].map(peer);
        let numbers = |last: Option<u8>, count| -> Vec<u8> {
            let chosen = next_after(last.map(|last| peer(last).subnet), &peers, count);
            (1..=4).filter(|number| chosen.contains(&peer(*number))).collect()
        };
        assert_eq!(numbers(None, 3), [1, 2, 3]);
        assert_eq!(numbers(Some(3), 3), [1, 2, 4]);
        assert_eq!(numbers(Some(2), 3), [1, 3, 4]);
        assert_eq!(numbers(Some(9), 9), [1, 2, 3, 4]);
        assert_eq!(next_after(None, &[], 3), []);
    }

    #[test]
    fn a_silent_gateway_says_nothing_of_a_node_that_answers() {
        let answer = |inside, outside| Answer { peer: peer(1), inside, outside };
        for (inside, outside, with_device, without) in [
            (true, false, Reachable::Yes, Reachable::Yes),
            (false, true, Reachable::No, Reachable::Unknown),
            (false, false, Reachable::No, Reachable::No),
        ] {
            assert_eq!(answer(inside, outside).reachable(true), with_device);
            assert_eq!(answer(inside, outside).reachable(false), without);
        }
    }

    #[test]
    fn what_is_known_ends_with_the_peer() {
        let mut reachability = Reachability::new(Duration::ZERO, true);
        let answers = |outside| [1, 2].map(|number| Answer { peer: peer(number), inside: false, outside });
        reachability.learn(&[1, 2, 3].map(peer), answers(true).to_vec());
        assert_eq!(reachability.known.len(), 2);
        let moved = Peer { public_ip: [192, 0, 2, 9].into(), ..peer(1) };
        reachability.learn(&[moved, peer(2)], Vec::new());
        assert_eq!(reachability.known.keys().collect::<Vec<_>>(), [&peer(2).subnet]);
    }
}
