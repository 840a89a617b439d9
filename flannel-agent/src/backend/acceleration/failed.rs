//! Programs that cannot be attached again, or do not stay attached. A try loads them all, which takes a second of CPU time
//! on a small machine, so the pauses grow. A look at the BPF filesystem costs nothing: when it changes, it is tried at once.

use std::future::pending;
use std::time::Duration;

use anyhow::Error;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::detached::{Detachments, STAYS};
use crate::dataplane::bpf::pins::Pins;
use crate::metrics::FailureKind;
use crate::problem::{Pace, Problem};

/// Period of looking whether the BPF filesystem has come or gone.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of failures, if there are any.
pub(super) struct Failed {
    problem: Problem,
    why: String,
    /// [`Pins::place`] at the last try.
    place: (bool, bool),
    look: Interval,
    detachments: Detachments,
    /// Other programs detach them again and again.
    contested: bool,
    /// When those that are attached nevertheless count as staying.
    stays: Option<Instant>,
}

impl Default for Failed {
    fn default() -> Self {
        let over = "the BPF programs are attached again";
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            problem: Problem::new(FailureKind::Programs, over, Pace::SLOWING),
            why: String::new(),
            place: (false, false),
            look,
            detachments: Detachments::default(),
            contested: false,
            stays: None,
        }
    }
}

impl Failed {
    /// Other programs have detached them or removed a device. Returns whether that happens again and again, which is a
    /// failure: [`Self::again`].
    pub(super) fn lost(&mut self) -> bool {
        self.contested |= self.detachments.add(Instant::now());
        self.contested
    }

    /// They are detached, for these reasons.
    ///
    /// `floor`: what carries packets meanwhile.
    pub(super) fn again(&mut self, pins: &Pins, floor: &str, errors: impl Iterator<Item = Error>) {
        let what = if self.contested { "do not stay attached" } else { "cannot be attached again" };
        let errors: Vec<_> = errors.map(|error| format!("{error:#}")).collect();
        self.why = format!("the BPF programs {what}, {floor} all: {}", errors.join("; "));
        self.problem.failed([self.why.clone()]);
        self.place = pins.place();
        self.stays = None;
    }

    /// They are attached. That solves it, unless others detach them again and again.
    pub(super) fn attached(&mut self) {
        if self.contested {
            self.stays = Some(Instant::now() + STAYS);
        } else {
            self.problem.solved();
        }
    }

    /// Waits until programs that others have detached again and again stay attached: [`Self::settled`]. It may be dropped and
    /// called again.
    pub(super) async fn stays(&self) {
        match self.stays {
            Some(end) => sleep_until(end).await,
            None => pending().await,
        }
    }

    /// Nobody detaches them any more.
    pub(super) fn settled(&mut self) {
        self.problem.solved();
        self.detachments = Detachments::default();
        (self.contested, self.stays) = (false, None);
    }

    /// Returns what the operator was told.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Returns whether a device that is back is no reason to try at once: others would detach them again.
    pub(super) fn has_to_wait(&self) -> bool {
        self.contested && self.problem.next_try().is_some_and(|next| next > Instant::now())
    }

    /// Waits until it is time to try again. It may be dropped and called again.
    pub(super) async fn due(&mut self, pins: &Pins) {
        let Self { problem, place, look, .. } = self;
        let changed = async {
            while pins.place() == *place {
                look.tick().await;
            }
        };
        tokio::select! {
            () = problem.wait() => {}
            () = changed => {}
        }
    }
}
