//! Access to one entry of `FLOWS` or `FLOWS6`.

use flannel_common::flow::{Direction, Flow, Passage, Port};

use super::shared::{load, store};

/// An entry, which programs on other CPUs read and write at the same time.
///
/// Each field is loaded and stored by itself. The last writer wins; what gets lost is one proof.
#[derive(Clone, Copy)]
pub struct FlowRef(*mut Flow);

impl FlowRef {
    /// # Safety
    /// `entry` is the value of an entry that the running program has looked up. (Its memory stays an entry's for as long
    /// as the program runs. If the map is full, the kernel may give it to another flow meanwhile.)
    #[inline(always)]
    pub(super) const unsafe fn new(entry: *mut Flow) -> Self {
        Self(entry)
    }

    /// Copies what a proof consists of. The rest is as if no packet had ever entered.
    #[inline(always)]
    #[must_use]
    pub fn proof(self, direction: Direction) -> Passage {
        let passage = self.passage(direction);
        // SAFETY: within the entry, and aligned as the type is.
        unsafe {
            Passage {
                entered: 0,
                left: load::<u64, _>(&raw const (*passage).left),
                sample: 0,
                mark: load::<u32, _>(&raw const (*passage).mark),
                changed: load::<u32, _>(&raw const (*passage).changed),
            }
        }
    }

    /// Copies where the pod is.
    #[inline(always)]
    #[must_use]
    pub fn port(self) -> Port {
        // SAFETY: within the entry, aligned (asserted below), bytes and a number without padding.
        unsafe { load::<u64, _>(&raw const (*self.0).port) }
    }

    /// Stores where the pod is.
    #[inline(always)]
    pub fn set_port(self, port: Port) {
        // SAFETY: as in `port`.
        unsafe { store::<u64, _>(&raw mut (*self.0).port, port) }
    }

    /// Changes what is known of one direction. Only fields that differ afterwards are stored.
    #[inline(always)]
    pub fn update<R>(self, direction: Direction, change: impl FnOnce(&mut Passage) -> R) -> R {
        let passage = self.passage(direction);
        let before = load_passage(passage);
        let mut after = before;
        let result = change(&mut after);
        // SAFETY: within the entry, and aligned as the type is.
        unsafe {
            // A proof is revoked before its mark changes, and stored after its mark. `changed` comes before `left`: it makes
            // a proof of the time, or takes the proof away.
            if after.left < before.left {
                store::<u64, _>(&raw mut (*passage).left, after.left);
            }
            if after.changed != before.changed {
                store::<u32, _>(&raw mut (*passage).changed, after.changed);
            }
            if after.mark != before.mark {
                store::<u32, _>(&raw mut (*passage).mark, after.mark);
            }
            if after.entered != before.entered {
                store::<u64, _>(&raw mut (*passage).entered, after.entered);
            }
            if after.sample != before.sample {
                store::<u64, _>(&raw mut (*passage).sample, after.sample);
            }
            if after.left > before.left {
                store::<u64, _>(&raw mut (*passage).left, after.left);
            }
        }
        result
    }

    #[inline(always)]
    const fn passage(self, direction: Direction) -> *mut Passage {
        // SAFETY: within the entry.
        unsafe {
            match direction {
                Direction::Egress => &raw mut (*self.0).egress,
                Direction::Ingress => &raw mut (*self.0).ingress,
            }
        }
    }
}

const _: () = assert!(core::mem::offset_of!(Flow, port).is_multiple_of(align_of::<u64>()));

#[inline(always)]
fn load_passage(from: *const Passage) -> Passage {
    // SAFETY: `from` points into an entry, and fields are aligned as the type is.
    unsafe {
        Passage {
            entered: load::<u64, _>(&raw const (*from).entered),
            left: load::<u64, _>(&raw const (*from).left),
            sample: load::<u64, _>(&raw const (*from).sample),
            mark: load::<u32, _>(&raw const (*from).mark),
            changed: load::<u32, _>(&raw const (*from).changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Port = Port { ifindex: 7, pod_mac: [1, 2, 3, 4, 5, 6], gateway_mac: [6, 5, 4, 3, 2, 1] };

    #[test]
    fn what_is_stored_is_loaded_again() {
        let mut flow = Flow::default();
        // SAFETY: valid, and accessed by `entry` only until it is read below.
        let entry = unsafe { FlowRef::new(&raw mut flow) };
        entry.set_port(PORT);
        let expected = |entered, left, mark| Passage { entered, left, sample: left, mark, changed: mark & 1 };
        for (direction, mark) in [(Direction::Egress, 1), (Direction::Ingress, 2)] {
            let known = entry.update(direction, |passage| {
                *passage = expected(10 * u64::from(mark), 100, mark);
                passage.is_known()
            });
            assert_eq!(known, mark == 2);
        }
        entry.update(Direction::Egress, |passage| *passage = expected(5, 50, 4));
        let proof = |left, mark| Passage { entered: 0, sample: 0, ..expected(0, left, mark) };
        assert_eq!(
            [Direction::Egress, Direction::Ingress].map(|direction| entry.proof(direction)),
            [proof(50, 4), proof(100, 2)]
        );
        assert_eq!(entry.port(), PORT);
        assert_eq!(flow, Flow { egress: expected(5, 50, 4), ingress: expected(20, 100, 2), port: PORT });
    }
}
