//! Interfaces that the programs are yet to be attached to. For each new hook the kernel waits for all CPUs (an RCU grace period), under
//! the lock that all changes of interfaces need: several threads would not be faster. So it is done one interface at a time, and the
//! agent does everything else in between.

use std::collections::VecDeque;

use anyhow::Result;

use super::Bpf;
use super::attach::{self, Mechanism};
use crate::dataplane::kernel::Side;
use crate::dataplane::obstacle::PodPort;

/// Those that wait, each kind in the order in which it was listed.
#[derive(Default)]
pub(super) struct Waiting {
    /// Interfaces where senders are to be checked. They come first.
    pub(super) sides: VecDeque<Side>,
    /// Ports of pods.
    pub(super) ports: VecDeque<PodPort>,
}

impl Bpf {
    /// Returns whether interfaces may wait. Not for clsact: packets of pods that talk already get lost when its qdisc is added.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.mechanism == Mechanism::Tcx
    }

    /// Returns whether an interface waits for the programs.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.has_waiting_sides() || !self.waiting.ports.is_empty()
    }

    /// Returns whether an interface waits where senders are to be checked.
    #[must_use]
    pub fn has_waiting_sides(&self) -> bool {
        !self.waiting.sides.is_empty()
    }

    /// Attaches the programs to the next interface that waits for them, in place of an earlier agent's.
    ///
    /// # Errors
    /// The kernel refuses. The interface waits no longer; it is listed again with the next [`Self::follow`].
    pub fn attach_next(&mut self) -> Result<()> {
        if let Some(side) = self.waiting.sides.pop_front() {
            let attached = self.attach_side(&side);
            return unless_gone(attached, side.index, &side.name);
        }
        let Some(port) = self.waiting.ports.pop_front() else { return Ok(()) };
        let attached = self.attach_port(&port);
        unless_gone(attached, port.index, &port.name)
    }
}

/// Forgives what fails because the interface has just gone. The next event is about that.
fn unless_gone(attached: Result<()>, index: u32, name: &str) -> Result<()> {
    match attached {
        Err(_) if !attach::is_there(index, name) => Ok(()),
        attached => attached,
    }
}
