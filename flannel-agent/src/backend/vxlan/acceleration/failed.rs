//! Programs that could not be attached again. A try loads them all, which takes a second of CPU time on a small machine,
//! so the pauses grow. A look at the BPF filesystem costs nothing: when it changes, it is tried at once.

use std::time::Duration;

use anyhow::Error;
use tokio::time::{Interval, interval};

use crate::dataplane::bpf::pins::Pins;
use crate::metrics::FailureKind;
use crate::problem::{Pace, Problem};

/// Period of looking whether the BPF filesystem has come or gone.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of the failure.
pub(super) struct Failed {
    problem: Problem,
    why: String,
    /// [`Pins::place`] at the last try.
    place: (bool, bool),
    look: Interval,
}

impl Default for Failed {
    fn default() -> Self {
        let over = "the BPF programs are attached again";
        Self {
            problem: Problem::new(FailureKind::Programs, over, Pace::SLOWING),
            why: String::new(),
            place: (false, false),
            look: interval(LOOK),
        }
    }
}

impl Failed {
    /// It was tried, and failed for these reasons.
    pub(super) fn again(&mut self, pins: &Pins, errors: impl Iterator<Item = Error>) {
        let errors: Vec<_> = errors.map(|error| format!("{error:#}")).collect();
        self.why = format!(
            "the BPF programs cannot be attached again, the kernel's vxlan device carries all: {}",
            errors.join("; ")
        );
        self.problem.failed([self.why.clone()]);
        self.place = pins.place();
    }

    pub(super) fn solved(&mut self) {
        self.problem.solved();
    }

    /// Returns what the operator was told.
    pub(super) fn why(&self) -> &str {
        &self.why
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
