//! Questions that a lease answers. The kernel asks which VTEP MAC an address has, and which node a VTEP MAC; the programs
//! ask who leases a pod's address.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::dataplane::entry::Miss;

/// Lifetime of a negative answer.
const NEGATIVE: Duration = Duration::from_secs(10);
/// The number of questions and negative answers kept. More questions are dropped: a packet that is sent again asks again.
const MAX: usize = 1024;
/// Pause before the datastore is asked again, after it had no answer: at first and at most. Its answer is every lease, and
/// anybody on the underlay can cause a question.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A question, by what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::backend::vxlan) enum Question {
    /// A packet waits at the interface with this index.
    Kernel(u32, Miss),
    /// A packet to or from this pod had no lease.
    Pod(IpAddr),
}

impl Question {
    /// Returns the kind of what is asked for, as a label of metrics.
    pub(in crate::backend::vxlan) const fn kind(&self) -> &'static str {
        match self {
            Self::Kernel(_, Miss::Neighbour(_)) => "neighbour",
            Self::Kernel(_, Miss::Fdb(_)) => "fdb",
            Self::Pod(_) => "lease",
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(_, Miss::Neighbour(address)) => address.fmt(f),
            Self::Kernel(_, Miss::Fdb(mac)) => mac.fmt(f),
            Self::Pod(pod) => pod.fmt(f),
        }
    }
}

/// Open questions, and negative answers. A question moves from `new` to `unanswered` if no peer is the answer, and to
/// `asked` with a request to the datastore.
#[derive(Debug, Default)]
pub(in crate::backend::vxlan) struct Misses {
    new: Vec<Question>,
    unanswered: Vec<Question>,
    asked: Vec<Question>,
    negative: BTreeMap<Question, Instant>,
    pace: Pace,
}

impl Misses {
    /// Adds a question of the kernel at the device with this index. Returns whether it is to be answered.
    pub(super) fn add(&mut self, device: u32, miss: Miss, now: Instant) -> bool {
        self.add_new(Question::Kernel(device, miss), now)
    }

    /// Adds a question of the programs about a pod whose lease the maps do not have. Returns whether it is to be
    /// answered.
    pub(super) fn add_pod(&mut self, pod: IpAddr, now: Instant) -> bool {
        // The maps have all peers: only the datastore may know more.
        let added = self.pace.allows(now) && self.add_new(Question::Pod(pod), now);
        if added {
            self.negative.insert(Question::Pod(pod), now);
        }
        added
    }

    fn add_new(&mut self, question: Question, now: Instant) -> bool {
        self.negative.retain(|_, since| now.duration_since(*since) < NEGATIVE);
        let mut open = self.new.iter().chain(&self.unanswered).chain(&self.asked);
        let known = self.negative.contains_key(&question) || open.any(|other| *other == question);
        if known || self.len() >= MAX {
            return false;
        }
        self.new.push(question);
        true
    }

    fn len(&self) -> usize {
        self.new.len() + self.unanswered.len() + self.asked.len() + self.negative.len()
    }

    /// Takes the questions that no peer has been looked up for.
    pub(in crate::backend::vxlan) fn take_new(&mut self) -> Vec<Question> {
        mem::take(&mut self.new)
    }

    /// Puts a question back that no peer is the answer to. It is dropped while the datastore is not to be asked.
    pub(in crate::backend::vxlan) fn put_back(&mut self, question: Question, now: Instant) {
        if self.unanswered.is_empty() {
            if !self.pace.allows(now) {
                return;
            }
            self.pace.asked(now);
        }
        self.unanswered.push(question);
    }

    /// Returns whether the datastore is to be asked. [`Self::take_asked`] then returns the questions that this is for.
    pub(in crate::backend::vxlan) fn ask_datastore(&mut self) -> bool {
        self.asked.append(&mut self.unanswered);
        !self.asked.is_empty()
    }

    /// Takes the questions that the datastore was asked for.
    pub(in crate::backend::vxlan) fn take_asked(&mut self) -> Vec<Question> {
        mem::take(&mut self.asked)
    }

    /// The datastore had an answer: it may be asked again at once.
    pub(in crate::backend::vxlan) fn answered(&mut self) {
        self.pace = Pace::default();
    }

    /// The datastore had no answer: adds a negative one.
    pub(in crate::backend::vxlan) fn not_answered(&mut self, question: Question, now: Instant) {
        self.negative.insert(question, now);
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
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}
