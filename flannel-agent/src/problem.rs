//! Problems that last: each text is logged once, and the end too. What fails is tried again, less and less often where a
//! try is costly.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use crate::metrics::{FailureKind, Lasting, METRICS};
use crate::report::{REPORT, ReportedProblem};

/// So many different texts of one problem are logged. Some errors contain a number that changes all the time.
const TEXTS: usize = 16;

/// How soon what has failed is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The pause after the first failure. It doubles with each further one.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Pace {
    /// Every second: a request that costs nothing here.
    pub const STEADY: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(1) };
    /// From one second to one minute: work that costs something each time.
    pub const SLOWING: Self = Self { longest: Duration::from_secs(60), ..Self::STEADY };

    /// Returns the pause that follows this one; the first one after zero.
    #[must_use]
    pub fn after(self, pause: Duration) -> Duration {
        (pause * 2).clamp(self.first, self.longest)
    }
}

/// Something that may fail, again and again. Counted in `flannel_problems` from the first failure until it is solved or
/// dropped.
#[derive(Debug)]
pub struct Problem {
    kind: FailureKind,
    over: String,
    pace: Pace,
    open: Option<Open>,
}

/// What is known of a problem from its first failure on.
#[derive(Debug)]
struct Open {
    tries: Tries,
    said: BTreeSet<String>,
    reported: ReportedProblem,
    _counted: Lasting,
}

impl Problem {
    /// Returns one that has not occurred. `over` is logged at its end: "the firewall rules are complete again".
    pub fn new(kind: FailureKind, over: impl Into<String>, pace: Pace) -> Self {
        Self { kind, over: over.into(), pace, open: None }
    }

    /// It has occurred, in these words. Logs and returns those that are new, and has it tried again later.
    pub fn failed(&mut self, texts: impl IntoIterator<Item = String>) -> Vec<String> {
        let now = Instant::now();
        let (mut new, mut all) = (Vec::new(), Vec::new());
        for text in texts {
            METRICS.count_failure(self.kind);
            if all.len() < TEXTS {
                all.push(text.clone());
            }
            if self.is_new(&text, now) {
                error!("{text}; trying again until it works");
                new.push(text);
            } else {
                debug!("{text}");
            }
        }
        if let Some(Open { tries, reported, .. }) = &mut self.open {
            tries.failed(now, self.pace);
            reported.say(all);
        }
        new
    }

    /// It exists, in these words, and is not for the agent to solve. Without words it is over. Logs those that are new, and the
    /// end.
    pub fn observed(&mut self, texts: Vec<String>) {
        if texts.is_empty() {
            self.solved();
        }
        for text in &texts {
            if self.is_new(text, Instant::now()) {
                METRICS.count_failure(self.kind);
                warn!("{text}");
            }
        }
        if let Some(Open { reported, .. }) = &self.open {
            reported.say(texts.into_iter().take(TEXTS).collect());
        }
    }

    /// Opens it, and returns whether this is to be logged.
    fn is_new(&mut self, text: &str, now: Instant) -> bool {
        let open = self.open.get_or_insert_with(|| Open {
            tries: Tries::new(now),
            said: BTreeSet::new(),
            reported: REPORT.problem(self.kind),
            _counted: METRICS.lasting(self.kind),
        });
        open.said.len() < TEXTS && open.said.insert(text.to_owned())
    }

    /// It is over, or has never occurred. Logs the end.
    pub fn solved(&mut self) {
        if let Some(Open { tries, .. }) = self.open.take() {
            info!("{}, after {} s", self.over, tries.since.elapsed().as_secs());
            REPORT.is_over(&*self.over);
        }
    }

    /// Returns when to try again; `None` if it has not occurred.
    #[must_use]
    pub fn next_try(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.tries.next)
    }

    /// Waits until it is to be tried again; not at all if it has not occurred.
    pub async fn wait(&self) {
        if let Some(next) = self.next_try() {
            sleep_until(next).await;
        }
    }
}

/// When it began and when to try again. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tries {
    since: Instant,
    /// The last pause; zero before the first one.
    pause: Duration,
    next: Instant,
}

impl Tries {
    const fn new(now: Instant) -> Self {
        Self { since: now, pause: Duration::ZERO, next: now }
    }

    /// A try has failed. One that came early, for another reason, delays the next one no further.
    fn failed(&mut self, now: Instant, pace: Pace) {
        if now >= self.next {
            self.pause = pace.after(self.pause);
            self.next = now + self.pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_early_tries_do_not_count() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut tries = Tries::new(start);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let now = tries.next;
            tries.failed(now, Pace::SLOWING);
            pauses.push((tries.next - now).as_secs());
            let before = tries;
            tries.failed(now + second / 2, Pace::SLOWING);
            assert_eq!(tries, before);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(tries.since, start);
        tries.failed(tries.next, Pace::STEADY);
        assert_eq!(tries.pause, second);
    }

    #[tokio::test(start_paused = true)]
    async fn each_text_is_new_once_and_again_after_the_end() {
        let mut problem = Problem::new(FailureKind::Dataplane, "over", Pace::SLOWING);
        problem.wait().await;
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for round in 0..2 {
            assert_eq!(problem.next_try(), None, "{round}");
            assert_eq!(problem.failed(texts(&["a", "b"])), ["a", "b"]);
            assert_eq!(problem.failed(texts(&["b"])), [""; 0]);
            assert_eq!(problem.failed(texts(&["b", "c"])), ["c"]);
            let begin = Instant::now();
            problem.wait().await;
            assert_eq!(begin.elapsed().as_secs(), 1);
            problem.solved();
        }
        assert_eq!(problem.failed(Vec::new()), [""; 0]);
        assert_eq!(problem.next_try(), None);
        let numbers = problem.failed((0..100).map(|number| number.to_string()));
        assert_eq!(numbers.len(), TEXTS);
    }

    #[test]
    fn what_is_observed_lasts_until_nothing_is() {
        let mut problem = Problem::new(FailureKind::NodeSetup, "over", Pace::SLOWING);
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        problem.observed(Vec::new());
        assert_eq!(problem.next_try(), None);
        for _ in 0..3 {
            problem.observed(texts(&["a", "b"]));
            assert_eq!(problem.open.as_ref().unwrap().said.len(), 2);
        }
        problem.observed(texts(&["b"]));
        assert!(problem.next_try().is_some());
        problem.observed(Vec::new());
        assert_eq!(problem.next_try(), None);
    }
}
