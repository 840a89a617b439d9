//! Runs an action on many items at once. Creating a namespace or link is mostly waiting for the kernel.

use std::panic::resume_unwind;
use std::thread;

use anyhow::Result;

/// Runs `action` on each item in its own thread. Returns the results in order, or the first error.
pub(crate) fn in_parallel<I: Send, T: Send>(
    items: Vec<I>,
    action: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let action = &action;
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || action(item))).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        // All threads are joined before an error returns, so that the other results are dropped here.
        results.collect::<Vec<_>>().into_iter().collect()
    })
}
