//! Flows that take the shortcut, and that do so no longer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::dataplane::bpf::flows::listed::{ListedFlow, Passed, list};
use crate::dataplane::bpf::pins::{self, Pins};
use crate::flows::protocol_name;
use crate::report::feed::What;

/// A flow no packet of which has passed the host stack for so many milliseconds has ended: a proof lasts 10 s at most.
const QUIET: u64 = 30_000;

/// Protocol, pod and other end.
type Name = (u8, SocketAddr, SocketAddr);

/// The flows that took the shortcut at the last reading.
pub(super) struct ActiveFlows {
    bpffs: PathBuf,
    known: BTreeMap<Name, ListedFlow>,
}

impl ActiveFlows {
    /// Reads the flows that there are.
    pub(super) fn new(bpffs: &Path) -> Self {
        Self { bpffs: bpffs.to_owned(), known: active(bpffs) }
    }

    /// Returns which flows have come and gone since the last call.
    pub(super) fn changes(&mut self) -> Vec<What> {
        let before = std::mem::replace(&mut self.known, active(&self.bpffs));
        changes(&before, &self.known)
    }
}

fn changes(before: &BTreeMap<Name, ListedFlow>, now: &BTreeMap<Name, ListedFlow>) -> Vec<What> {
    let news =
        |all: &BTreeMap<Name, ListedFlow>, others: &BTreeMap<Name, ListedFlow>, state: &str| -> Vec<What> {
            let only = all.iter().filter(|(name, _)| !others.contains_key(name));
            only.map(|(_, flow)| what(flow, state)).collect()
        };
    let mut all = news(before, now, "ended");
    all.extend(news(now, before, "proven"));
    all
}

fn what(flow: &ListedFlow, state: &str) -> What {
    let ListedFlow { protocol, pod, remote, behind, .. } = *flow;
    What::Flow { protocol: protocol_name(protocol), pod, remote, behind, state: state.to_owned() }
}

/// Returns the flows of all overlays that take the shortcut. Without programs there are none.
fn active(bpffs: &Path) -> BTreeMap<Name, ListedFlow> {
    let overlays = pins::overlays(bpffs).unwrap_or_default();
    let flows = overlays.into_iter().filter_map(|vni| list(&Pins::new(bpffs, vni)).ok()).flatten();
    let active = flows.filter(|flow| is_active(flow.sent) || is_active(flow.received));
    active.map(|flow| ((flow.protocol, flow.pod, flow.remote), flow)).collect()
}

const fn is_active(passed: Passed) -> bool {
    match passed {
        Passed::Proven(milliseconds) | Passed::Expired(milliseconds) => milliseconds < QUIET,
        Passed::Never | Passed::Changed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> (Name, ListedFlow) {
        let (pod, remote) = (SocketAddr::from(([10, 5, 1, 2], port)), SocketAddr::from(([10, 5, 2, 2], 80)));
        let flow = ListedFlow {
            protocol: 6,
            pod,
            remote,
            behind: None,
            seen_as: None,
            peer: None,
            on_link: false,
            port: None,
            sent: Passed::Proven(1),
            received: Passed::Never,
        };
        ((6, pod, remote), flow)
    }

    #[test]
    fn flows_come_and_go() {
        let (before, now) = ([flow(1), flow(2)].into(), [flow(2), flow(3)].into());
        let states: Vec<_> = changes(&before, &now)
            .into_iter()
            .map(|what| match what {
                What::Flow { pod, state, .. } => (pod.port(), state),
                what => panic!("{what:?}"),
            })
            .collect();
        assert_eq!(states, [(1, "ended".to_owned()), (3, "proven".to_owned())]);
    }

    #[test]
    fn a_flow_that_is_quiet_or_changed_has_ended() {
        for (passed, active) in [
            (Passed::Proven(9_000), true),
            (Passed::Expired(12_000), true),
            (Passed::Expired(QUIET), false),
            (Passed::Never, false),
            (Passed::Changed(1), false),
        ] {
            assert_eq!(is_active(passed), active, "{passed:?}");
        }
    }
}
