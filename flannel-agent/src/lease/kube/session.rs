//! What is known of the Nodes, from the first time that this node took its subnet.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::node::NodeView;
use super::nodes::{Changes, Nodes, OwnNode};
use crate::lease::entry::RawLease;

/// How long an answer may be older than what this node wrote. API servers answer from caches.
const CACHE_LAG: Duration = Duration::from_secs(60);

/// The Nodes, and the place in the watch.
#[derive(Default)]
pub(super) struct Session(Mutex<State>);

#[derive(Default)]
struct State {
    nodes: Option<Nodes>,
    /// The version up to which Nodes are known; `None` until all of them are.
    version: Option<String>,
    written: Option<Written>,
}

/// This node's Node, as of its last write or reading.
struct Written {
    view: NodeView,
    version: u64,
    at: Instant,
}

impl Session {
    /// This node has its subnet, and its Node is `view` at this version.
    pub(super) fn hold(&self, own: OwnNode, view: NodeView, version: &str) {
        let mut state = self.lock();
        let written = version.parse().ok().map(|version| Written { view, version, at: Instant::now() });
        let State { nodes, written: newest, .. } = &mut *state;
        *newest = written;
        match nodes {
            Some(nodes) => nodes.hold(own),
            None => *nodes = Some(Nodes::new(own)),
        }
    }

    /// Begins anew: all Nodes are to be read.
    pub(super) fn begin(&self) {
        self.lock().version = None;
    }

    /// Returns this node's own Node instead of a view that is older than its last write.
    pub(super) fn newest(&self, view: NodeView, version: &str) -> NodeView {
        let state = self.lock();
        let newer = state.written.as_ref().filter(|written| {
            written.view.name == view.name
                && written.at.elapsed() < CACHE_LAG
                && version.parse().is_ok_and(|version: u64| version < written.version)
        });
        newer.map_or(view, |written| written.view.clone())
    }

    pub(super) fn replace(&self, all: Vec<NodeView>, version: String) -> Changes {
        let mut state = self.lock();
        state.version = Some(version);
        state.nodes.as_mut().map(|nodes| nodes.replace(all)).unwrap_or_default()
    }

    pub(super) fn put(&self, node: NodeView) -> Changes {
        self.lock().nodes.as_mut().map(|nodes| nodes.put(node)).unwrap_or_default()
    }

    pub(super) fn remove(&self, name: &str) -> Changes {
        self.lock().nodes.as_mut().map(|nodes| nodes.remove(name)).unwrap_or_default()
    }

    pub(super) fn version(&self) -> Option<String> {
        self.lock().version.clone()
    }

    /// Nodes are known up to this version.
    pub(super) fn advance(&self, version: &str) {
        if let Some(known) = &mut self.lock().version
            && !version.is_empty()
        {
            known.clear();
            known.push_str(version);
        }
    }

    /// The watch cannot go on where it was.
    pub(super) fn forget_version(&self) {
        self.lock().version = None;
    }

    /// Returns the leases, once all Nodes are known.
    pub(super) fn leases(&self) -> Option<Vec<RawLease>> {
        let state = self.lock();
        state.version.as_ref().and(state.nodes.as_ref()).map(Nodes::leases)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic in the middle of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
