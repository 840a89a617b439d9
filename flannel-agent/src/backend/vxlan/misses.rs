//! Questions of the kernel's: which VTEP MAC has this address, which node has this VTEP MAC.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::dataplane::kernel::news::Miss;

/// How long it is taken for granted that nobody has what was asked for.
const NEGATIVE: Duration = Duration::from_secs(10);
/// More questions at a time are dropped: the kernel repeats those that matter.
const MOST: usize = 1024;

/// A question of the kernel's that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Index of the interface where a packet waits.
    pub(super) device: u32,
    pub(super) miss: Miss,
    /// No peer was the answer, and the datastore has been asked since.
    last_try: bool,
}

/// Questions that wait, and those that nobody could answer.
#[derive(Debug, Default)]
pub(super) struct Misses {
    waiting: Vec<Question>,
    nobodys: BTreeMap<Miss, Instant>,
}

impl Misses {
    /// The kernel asks at the device with this index. Returns whether that is worth a look.
    pub(super) fn ask(&mut self, device: u32, miss: Miss, now: Instant) -> bool {
        self.nobodys.retain(|_, since| now.duration_since(*since) < NEGATIVE);
        let known =
            self.nobodys.contains_key(&miss) || self.waiting.iter().any(|question| question.miss == miss);
        if known || self.waiting.len() + self.nobodys.len() >= MOST {
            return false;
        }
        self.waiting.push(Question { device, miss, last_try: false });
        true
    }

    /// The questions that wait, which wait no longer.
    pub(super) fn take(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.waiting)
    }

    /// No peer is the answer. Returns whether it may be one that the datastore knows and we do not: then the question
    /// waits once more. Else it is nobody's for a while.
    pub(super) fn put_back(&mut self, question: Question, now: Instant) -> bool {
        if question.last_try {
            self.nobodys.insert(question.miss, now);
        } else {
            self.waiting.push(Question { last_try: true, ..question });
        }
        !question.last_try
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn miss(last: u8) -> Miss {
        Miss::Neighbour([10, 5, 1, last].into())
    }

    #[test]
    fn a_question_is_asked_once_and_again_after_a_while() {
        let (mut misses, start) = (Misses::default(), Instant::now());
        assert!(misses.ask(7, miss(1), start));
        assert!(!misses.ask(7, miss(1), start), "it waits already");
        let [question] = misses.take()[..] else { panic!() };
        assert_eq!((question.device, question.miss), (7, miss(1)));
        assert!(misses.put_back(question, start), "the datastore may know");
        let [question] = misses.take()[..] else { panic!() };
        assert!(!misses.put_back(question, start), "it does not");
        assert!(misses.take().is_empty());
        assert!(!misses.ask(7, miss(1), start + NEGATIVE / 2), "nobody has it");
        assert!(misses.ask(7, miss(1), start + NEGATIVE));
    }

    #[test]
    fn a_flood_of_questions_has_an_end() {
        let (mut misses, start) = (Misses::default(), Instant::now());
        let asked = (0..5000u32).filter(|n| misses.ask(7, Miss::Neighbour(n.to_be_bytes().into()), start));
        assert_eq!(asked.count(), MOST);
        assert_eq!(misses.take().len(), MOST);
    }
}
