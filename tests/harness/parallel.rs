//! Doing the same to many: most of making a namespace or a link is waiting for the kernel.

use std::panic::resume_unwind;
use std::thread;

use anyhow::Result;

/// Runs `action` on every item in a thread of its own; gives the results in order, or the first error.
pub(crate) fn in_parallel<I: Send, T: Send>(
    items: Vec<I>,
    action: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let action = &action;
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || action(item))).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        // All are joined, so that what succeeded is dropped, and undone, here and not later.
        results.collect::<Vec<_>>().into_iter().collect()
    })
}
