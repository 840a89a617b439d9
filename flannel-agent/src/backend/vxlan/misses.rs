//! Questions that a lease is the answer to: the kernel's, which VTEP MAC has this address and which node has this VTEP
//! MAC; and the programs', who leases this pod's address.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::dataplane::entry::Miss;

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
