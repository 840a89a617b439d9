//! Measures how soon a change of one node is in the dataplane.
//!
//! The clock ends when the agent reports that kernel and maps have the change; by then the kernel must have notified of
//! the route. It begins twice: with the write to the datastore, and, where the way of the datastore's events can be
//! watched, with the first bytes on it. They are encrypted. Should they be other bytes than those of the event, the figure is
//! too large, never too small.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use flannel_tests::kubernetes::Forwarder;
use flannel_tests::{Agent, Node};
use serde::Serialize;

use super::node::wait_peers;
use super::routes::Routes;
use super::store::Crowd;
use crate::bench::crowd::{Backend, Lease};
use crate::bench::series::{median, percentile};

/// Number of changes of each kind.
pub(super) const TIMES: usize = 50;

/// How long changes took until kernel and maps had them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Changes {
    /// From the start of a write to the datastore, of joins of nodes that were not there before: the median.
    pub(super) join: Duration,
    /// The same of nodes that are back at once. Their flows are to be proven again, for which the agent computes all entries.
    pub(super) back: Duration,
    /// The same of leaves.
    pub(super) leave: Duration,
    /// From the arrival of the datastore's event, of all.
    pub(super) event: Option<Spread>,
}

/// The middle and the end of many times.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) median: Duration,
    pub(super) p99: Duration,
}

/// One change.
struct Times {
    write: f64,
    event: Option<f64>,
}

/// Makes one node after the other join beside these leases, leave, come back and leave.
pub(super) fn measure(
    node: &Node,
    agent: &mut Agent,
    store: &dyn Crowd,
    backend: Backend,
    leases: u32,
) -> Result<Changes> {
    let mut routes = Routes::open(node)?;
    let (mut joins, mut returns, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..TIMES as u32 {
        let lease = Lease::new(backend, leases + number);
        for arrivals in [&mut joins, &mut returns] {
            store.prepare(&lease)?;
            arrivals.push(change(agent, store, leases + 1, || store.join(&lease))?);
            routes.ensure_added(lease.subnet)?;
            leaves.push(change(agent, store, leases, || store.leave(&lease))?);
            routes.ensure_removed(lease.subnet)?;
        }
    }
    let write = |times: &[Times]| {
        Duration::from_secs_f64(median(&times.iter().map(|times| times.write).collect::<Vec<_>>()))
    };
    let (join, back, leave) = (write(&joins), write(&returns), write(&leaves));
    let events: Option<Vec<_>> =
        joins.iter().chain(&returns).chain(&leaves).map(|times| times.event).collect();
    Ok(Changes { join, back, leave, event: events.map(|times| Spread::of(&times)) })
}

/// Makes a change, and waits until the agent reports that kernel and maps have this many peers.
fn change(
    agent: &mut Agent,
    store: &dyn Crowd,
    peers: u32,
    write: impl FnOnce() -> Result<()> + Send,
) -> Result<Times> {
    let events = store.events();
    events.inspect(|events| events.forget_answer());
    let start = Instant::now();
    // The agent may be faster than the datastore's answer to the write.
    let end = std::thread::scope(|scope| {
        let writing = scope.spawn(write);
        let end = wait_peers(agent, peers).map(|()| Instant::now());
        writing.join().map_err(|_| anyhow!("the thread that writes panicked")).flatten()?;
        end
    })?;
    let event = |events: &Forwarder| {
        let came = events.answered().context("the change is in the dataplane, and no event has come")?;
        anyhow::Ok((end - came).as_secs_f64())
    };
    Ok(Times { write: (end - start).as_secs_f64(), event: events.map(event).transpose()? })
}

impl Spread {
    fn of(seconds: &[f64]) -> Self {
        let of = |part| Duration::from_secs_f64(percentile(seconds, part));
        Self { median: of(0.5), p99: of(0.99) }
    }
}
