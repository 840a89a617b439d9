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

    /// Copies the entry.
    #[inline(always)]
    #[must_use]
    pub fn load(self) -> Flow {
        Flow {
            egress: load_passage(self.passage(Direction::Egress)),
            ingress: load_passage(self.passage(Direction::Ingress)),
            port: self.port(),
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
            // A proof is revoked before its mark changes, and stored after its mark.
            if after.left < before.left {
                store::<u64, _>(&raw mut (*passage).left, after.left);
            }
            if after.mark != before.mark {
                store::<u32, _>(&raw mut (*passage).mark, after.mark);
            }
            if after.entered != before.entered {
                store::<u64, _>(&raw mut (*passage).entered, after.entered);
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
            mark: load::<u32, _>(&raw const (*from).mark),
            reserved: 0,
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
        for (direction, mark) in [(Direction::Egress, 1), (Direction::Ingress, 2)] {
            let known = entry.update(direction, |passage| {
                *passage = Passage { entered: 10 * u64::from(mark), left: 100, mark, reserved: 0 };
                passage.is_known()
            });
            assert!(known);
        }
        let expected = |entered, left, mark| Passage { entered, left, mark, reserved: 0 };
        assert_eq!((entry.load().egress, entry.load().ingress), (expected(10, 100, 1), expected(20, 100, 2)));
        entry.update(Direction::Egress, |passage| *passage = expected(5, 50, 3));
        let copy = entry.load();
        assert_eq!((copy.egress, copy.ingress, copy.port), (expected(5, 50, 3), expected(20, 100, 2), PORT));
        assert_eq!(copy, flow);
    }
}
