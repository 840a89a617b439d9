//! Probes the other nodes: echo requests through the tunnel, small ones and the longest that pods send, and outside of it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::IpNet;

use super::model::{ProbedPeer, RoundTrips};
use crate::probe::{Prober, Request, Sent, small};
use crate::status::model::Way;

/// Small requests to each node through the tunnel.
const SMALL: usize = 5;
/// Requests to its public address.
const OUTSIDE: usize = 2;
/// Full requests to a node that answers.
const FULL: usize = 3;
/// Between two small requests to one node.
const SPACING: Duration = Duration::from_millis(20);
/// How long the first answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Later answers are waited for some times as long as the slowest one took, within these limits.
const SHORTEST: Duration = Duration::from_millis(250);
const TIMES: u32 = 4;
/// Lengths that are tried at once when the longest that passes is looked for, and how often each.
const LENGTHS: u16 = 5;
const COPIES: usize = 2;
/// For so many nodes the longest packet is looked for.
const SEARCHED: usize = 50;

/// A node to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its subnet.
    pub(super) subnet: IpNet,
    /// Its public address.
    pub(super) public_ip: IpAddr,
    /// How packets get there.
    pub(super) way: Way,
    /// An address of this node among the pods' addresses; `None` if there is none.
    pub(super) from: Option<IpAddr>,
    /// An address of that node among the pods' addresses.
    pub(super) to: IpAddr,
    /// The length of the longest IP packet that pods send, in bytes.
    pub(super) full: Option<u16>,
}

impl Target {
    /// Returns whether packets to its pods' addresses go there: without a route they would go anywhere.
    fn has_way(&self) -> bool {
        self.way != Way::Missing
    }

    fn small(&self) -> u16 {
        small(self.to.is_ipv6())
    }
}

/// Probes the nodes, all at once. Blocks until the deadline at the latest.
///
/// # Errors
/// No privilege (`CAP_NET_RAW`), or the kernel refuses the sockets.
pub(super) fn probe(targets: &[Target], deadline: Instant) -> Result<Vec<ProbedPeer>> {
    let mut probing = Probing { targets, prober: Prober::new(deadline)? };
    probing.small()?;
    let answers = probing.answers();
    let slowest = answers.iter().flat_map(|answers| &answers.times).max().copied().unwrap_or_default();
    let patience = (slowest * TIMES).clamp(SHORTEST, PATIENCE);
    let longest = probing.full(&answers, patience)?;
    Ok(probing.results(&answers, &longest))
}

/// The answers of a node to small requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answers {
    /// How many requests went through the tunnel.
    sent: usize,
    /// The times of their answers.
    times: Vec<Duration>,
    /// Whether the public address has answered.
    outside: bool,
}

/// What is known of full packets to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Full {
    /// Their length, if they were sent.
    length: Option<u16>,
    /// The longest that was answered.
    answered: Option<u16>,
}

struct Probing<'a> {
    targets: &'a [Target],
    prober: Prober,
}

impl Probing<'_> {
    /// Sends small requests, and waits for the answers.
    fn small(&mut self) -> Result<()> {
        self.prober.begin();
        for round in 0..SMALL.max(OUTSIDE) {
            for (number, target) in self.targets.iter().enumerate() {
                let request = |is_underlay, from, to: IpAddr| Request {
                    target: number,
                    is_underlay,
                    from,
                    to,
                    length: small(to.is_ipv6()),
                };
                if round < SMALL && target.has_way() {
                    self.prober.send(request(false, target.from, target.to))?;
                }
                if round < OUTSIDE {
                    self.prober.send(request(true, None, target.public_ip))?;
                }
            }
            self.prober.wait(SPACING)?;
        }
        self.prober.wait(PATIENCE)
    }

    /// Returns the answers to the small requests, by node.
    fn answers(&self) -> Vec<Answers> {
        let mut answers = vec![Answers::default(); self.targets.len()];
        for Sent { target, is_underlay, answer, .. } in self.prober.sent() {
            let of_node = &mut answers[*target];
            if *is_underlay {
                of_node.outside |= answer.is_some();
            } else {
                of_node.sent += 1;
                of_node.times.extend(*answer);
            }
        }
        answers
    }

    /// Finds out whether full packets pass, and if not which do.
    fn full(&mut self, answers: &[Answers], patience: Duration) -> Result<Vec<Full>> {
        let mut found = vec![Full::default(); self.targets.len()];
        self.prober.begin();
        for _ in 0..FULL {
            for (number, target) in self.targets.iter().enumerate() {
                let full =
                    target.full.filter(|full| !answers[number].times.is_empty() && *full > target.small());
                if let Some(length) = full {
                    self.prober.send(request(number, target, length))?;
                }
            }
        }
        self.prober.wait(patience)?;
        for one in self.prober.sent_now() {
            let full = &mut found[one.target];
            full.length = Some(one.length);
            full.answered = full.answered.or(one.answer.map(|_| one.length));
        }
        let is_lost = |full: &Full| full.length.is_some() && full.answered.is_none();
        let lost: Vec<_> =
            (0..found.len()).filter(|number| is_lost(&found[*number])).take(SEARCHED).collect();
        self.search(&lost, &mut found, patience)?;
        Ok(found)
    }

    /// Looks for the longest packets that pass to nodes that full ones do not reach: between the longest that was answered and the
    /// shortest that was not, some lengths are tried at once.
    fn search(&mut self, lost: &[usize], found: &mut [Full], patience: Duration) -> Result<()> {
        let range = |number: &usize| {
            let target = &self.targets[*number];
            (*number, target.small(), found[*number].length.unwrap_or_default())
        };
        let mut ranges: Vec<_> = lost.iter().map(range).collect();
        while ranges.iter().any(|(_, passes, fails)| fails - passes > 1) && !self.prober.is_over() {
            self.prober.begin();
            for (number, passes, fails) in &ranges {
                for length in lengths(*passes, *fails) {
                    for _ in 0..COPIES {
                        self.prober.send(request(*number, &self.targets[*number], length))?;
                    }
                }
            }
            self.prober.wait(patience)?;
            if self.prober.is_over() {
                break;
            }
            for (number, passes, fails) in &mut ranges {
                let sent = self.prober.sent_now().iter().filter(|one| one.target == *number);
                let tried: Vec<_> = sent.map(|one| (one.length, one.answer.is_some())).collect();
                (*passes, *fails) = narrowed(*passes, *fails, &tried);
            }
        }
        for (number, passes, _) in ranges {
            found[number].answered = Some(passes);
        }
        Ok(())
    }

    fn results(&self, answers: &[Answers], longest: &[Full]) -> Vec<ProbedPeer> {
        let each = self.targets.iter().zip(answers).zip(longest);
        let result = |((target, answers), full): ((&Target, &Answers), &Full)| ProbedPeer {
            subnet: target.subnet.to_string(),
            public_ip: target.public_ip,
            way: target.way,
            sent: answers.sent,
            answered: answers.times.len(),
            round_trip_us: round_trips(&mut answers.times.clone()),
            full_bytes: full.length,
            longest_answered: full.answered,
            underlay_answers: answers.outside,
        };
        each.map(result).collect()
    }
}

const fn request(number: usize, target: &Target, length: u16) -> Request {
    Request { target: number, is_underlay: false, from: target.from, to: target.to, length }
}

/// Returns lengths between one that passes and one that does not, evenly spread.
fn lengths(passes: u16, fails: u16) -> Vec<u16> {
    let between = fails.saturating_sub(passes).saturating_sub(1);
    let count = between.min(LENGTHS);
    let step = |number: u16| u32::from(number) * u32::from(between + 1) / u32::from(count + 1);
    (1..=count).map(|number| passes + u16::try_from(step(number)).unwrap_or(between)).collect()
}

/// Returns the longest length that passes and the shortest longer one that does not, given what was tried in between: lengths, and
/// whether they were answered.
fn narrowed(passes: u16, fails: u16, tried: &[(u16, bool)]) -> (u16, u16) {
    let answered = tried.iter().filter(|(_, answered)| *answered).map(|(length, _)| *length);
    let passes = answered.max().unwrap_or(passes).max(passes);
    let lost = tried.iter().map(|(length, _)| *length).filter(|length| *length > passes);
    (passes, lost.min().unwrap_or(fails).min(fails))
}

fn round_trips(times: &mut [Duration]) -> Option<RoundTrips> {
    times.sort_unstable();
    let microseconds = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let (min, median, max) = (times.first()?, times.get(times.len() / 2)?, times.last()?);
    Some(RoundTrips { min: microseconds(min), median: microseconds(median), max: microseconds(max) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever passes is found, with few packets and also if one copy of each is lost.
    #[test]
    fn the_longest_length_that_passes_is_found_with_some_dozens_of_packets() {
        for (small, full) in [(84, 1450), (104, 1430), (84, 8950), (84, 86), (84, 85)] {
            for longest in [small, small + 1, (small + full) / 2, full - 1] {
                let (mut passes, mut fails, mut packets) = (small, full, 0);
                while fails - passes > 1 {
                    let tried = lengths(passes, fails);
                    assert!(
                        !tried.is_empty() && tried.iter().all(|length| (passes + 1..fails).contains(length)),
                        "{tried:?}"
                    );
                    packets += tried.len() * COPIES;
                    let tried: Vec<_> = tried.into_iter().map(|length| (length, length <= longest)).collect();
                    (passes, fails) = narrowed(passes, fails, &tried);
                }
                assert_eq!(passes, longest.min(full - 1), "{small}, {full}, {longest}");
                assert!(packets <= 60, "{packets} packets for {small}, {full}, {longest}");
            }
        }
    }

    #[test]
    fn round_trips_are_the_shortest_the_middle_and_the_longest() {
        let of = |times: &[u64]| {
            round_trips(&mut times.iter().copied().map(Duration::from_micros).collect::<Vec<_>>())
        };
        assert_eq!(of(&[5, 1, 9]), Some(RoundTrips { min: 1, median: 5, max: 9 }));
        assert_eq!(of(&[]), None);
    }
}
