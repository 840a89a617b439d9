//! Questions that a lease is the answer to: the kernel's, which VTEP MAC has this address and which node has this VTEP
//! MAC; and the programs', who leases this pod's address.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::dataplane::kernel::news::Miss;

/// How long it is taken for granted that nobody has what was asked for.
const NEGATIVE: Duration = Duration::from_secs(10);
/// More questions at a time are dropped: packets that matter are sent again, and ask again.
const MOST: usize = 1024;
/// How long the datastore is left alone after a question that it had no answer to, at first and at most: all that it
/// says is every lease, and anybody on the underlay can have us ask.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    /// A packet waits at the interface with this index.
    Kernel(u32, Miss),
    /// A packet to or from this pod had no lease.
    Pod(IpAddr),
}

impl About {
    /// What is asked for, as metrics show it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_, Miss::Neighbour(_)) => "neighbour",
            Self::Kernel(_, Miss::Fdb(_)) => "fdb",
            Self::Pod(_) => "lease",
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(_, Miss::Neighbour(address)) => address.fmt(f),
            Self::Kernel(_, Miss::Fdb(mac)) => mac.fmt(f),
            Self::Pod(pod) => pod.fmt(f),
        }
    }
}

/// A question that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) about: About,
    /// No peer was the answer, and the datastore has been asked since.
    last_try: bool,
}

/// What becomes of a question that no peer is the answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for what the datastore says.
    AskDatastore,
    /// Nobody has what it asks for.
    Nobodys,
    /// The datastore was asked in vain a moment ago; the question may come again.
    Dropped,
}

/// Questions that wait, and those that nobody could answer.
#[derive(Debug, Default)]
pub(super) struct Misses {
    waiting: Vec<Question>,
    nobodys: BTreeMap<About, Instant>,
    pace: Pace,
}

impl Misses {
    /// The kernel asks at the device with this index. Returns whether that is worth a look.
    pub(super) fn ask(&mut self, device: u32, miss: Miss, now: Instant) -> bool {
        self.wait_for(About::Kernel(device, miss), now)
    }

    /// The programs have met a packet to or from this pod, whose lease the maps do not have. Returns whether that is
    /// worth a look.
    pub(super) fn ask_for_pod(&mut self, pod: IpAddr, now: Instant) -> bool {
        // The maps have what we know, so that only the datastore may know more.
        let worth = self.pace.allows(now) && self.wait_for(About::Pod(pod), now);
        if worth {
            self.nobodys.insert(About::Pod(pod), now);
        }
        worth
    }

    fn wait_for(&mut self, about: About, now: Instant) -> bool {
        self.nobodys.retain(|_, since| now.duration_since(*since) < NEGATIVE);
        let known =
            self.nobodys.contains_key(&about) || self.waiting.iter().any(|question| question.about == about);
        if known || self.waiting.len() + self.nobodys.len() >= MOST {
            return false;
        }
        self.waiting.push(Question { about, last_try: false });
        true
    }

    /// The questions that wait, which wait no longer.
    pub(super) fn take(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.waiting)
    }

    /// A peer was the answer.
    pub(super) fn answered(&mut self, question: &Question) {
        if question.last_try {
            self.pace = Pace::default();
        }
    }

    /// No peer is the answer: what becomes of the question.
    pub(super) fn put_back(&mut self, question: Question, now: Instant) -> Fate {
        if question.last_try {
            self.nobodys.insert(question.about, now);
            return Fate::Nobodys;
        }
        let asks_already = self.waiting.iter().any(|question| question.last_try);
        if !asks_already && !self.pace.allows(now) {
            return Fate::Dropped;
        }
        if !asks_already {
            self.pace.asked(now);
        }
        self.waiting.push(Question { last_try: true, ..question });
        Fate::AskDatastore
    }
}

/// When the datastore may be asked.
#[derive(Debug)]
struct Pace {
    next: Option<Instant>,
    pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { next: None, pause: PAUSE }
    }
}

impl Pace {
    fn allows(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    fn asked(&mut self, now: Instant) {
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn miss(last: u8) -> Miss {
        Miss::Neighbour([10, 5, 1, last].into())
    }

    fn pod(n: u32) -> IpAddr {
        (0x0a05_0000 + n).to_be_bytes().into()
    }

    #[test]
    fn a_question_is_asked_once_and_again_after_a_while() {
        let (mut misses, start) = (Misses::default(), Instant::now());
        assert!(misses.ask(7, miss(1), start));
        assert!(!misses.ask(7, miss(1), start), "it waits already");
        let [question] = misses.take()[..] else { panic!() };
        assert_eq!(question.about, About::Kernel(7, miss(1)));
        assert_eq!(misses.put_back(question, start), Fate::AskDatastore);
        let [question] = misses.take()[..] else { panic!() };
        assert_eq!(misses.put_back(question, start), Fate::Nobodys);
        assert!(misses.take().is_empty());
        assert!(!misses.ask(7, miss(1), start + NEGATIVE / 2), "nobody has it");
        assert!(misses.ask(7, miss(1), start + NEGATIVE));
    }

    #[test]
    fn a_flood_of_questions_has_an_end() {
        let (mut misses, start) = (Misses::default(), Instant::now());
        let asked = (0..5000u32).filter(|n| misses.ask(7, Miss::Neighbour(pod(*n)), start));
        assert_eq!(asked.count(), MOST);
        assert_eq!(misses.take().len(), MOST);
    }

    /// Asks for one pod after the other for a minute, and counts how often the datastore is asked.
    fn asks_of_a_minute(answered: bool) -> usize {
        let (mut misses, start) = (Misses::default(), Instant::now());
        let asks = |n: u32| {
            let now = start + Duration::from_millis(10) * n;
            misses.ask_for_pod(pod(n), now);
            let first = misses.take();
            let asks = first.into_iter().filter(|one| misses.put_back(*one, now) == Fate::AskDatastore);
            let asks = asks.count();
            for question in misses.take() {
                if answered {
                    misses.answered(&question);
                } else {
                    assert_eq!(misses.put_back(question, now), Fate::Nobodys);
                }
            }
            asks
        };
        (0..6000).map(asks).sum()
    }

    #[test]
    fn the_datastore_is_asked_in_vain_ever_less_often() {
        // At 0, 1, 3, 7 and 15 seconds, and every 10 from then on.
        assert_eq!(asks_of_a_minute(false), 9);
        assert!(asks_of_a_minute(true) > 1000);
    }

    #[test]
    fn questions_that_come_together_have_one_answer() {
        let (mut misses, start) = (Misses::default(), Instant::now());
        assert!((0..3).all(|n| misses.ask_for_pod(pod(n), start)));
        let fates: Vec<_> = misses.take().into_iter().map(|one| misses.put_back(one, start)).collect();
        assert_eq!(fates, [Fate::AskDatastore; 3]);
        assert!(!misses.ask_for_pod(pod(9), start), "the datastore is left alone");
        assert!(!misses.ask_for_pod(pod(0), start + PAUSE), "that has been asked already");
        assert!(misses.ask_for_pod(pod(9), start + PAUSE));
    }
}
