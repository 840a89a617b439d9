//! Asks for pods whose port has returned, until they answer: the bridge may not forward yet when the port is reported.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::dataplane::forwarding::Returned;
use crate::dataplane::kernel::Kernel;

/// Time for an answer.
const PAUSE: Duration = Duration::from_millis(40);
/// Most requests for one address. Then the kernel's own are waited for.
const REQUESTS: u32 = 5;

/// Addresses that are asked for, the next one first.
#[derive(Debug, Default)]
pub(super) struct Asking(VecDeque<Request>);

#[derive(Debug)]
struct Request {
    pod: Returned,
    /// How often it was asked for.
    made: u32,
    next: Instant,
}

impl Asking {
    /// Adds an address, to be asked for at once.
    pub(super) fn add(&mut self, pod: Returned) {
        self.0.push_front(Request { pod, made: 0, next: Instant::now() });
    }

    /// Makes the next request when it is time for it. It may be dropped and called again.
    pub(super) async fn next(&mut self, kernel: &Kernel) {
        let Some(Request { pod, made, next }) = self.0.front_mut() else { return pending().await };
        sleep_until(*next).await;
        let answer = kernel.ask_for(*pod, *made > 0).await;
        if let Err(error) = &answer {
            debug!(?pod, "not asking for a pod: {error:#}");
        }
        *made += 1;
        *next = Instant::now() + PAUSE;
        let (is_done, request) = (answer.unwrap_or(true) || *made == REQUESTS, self.0.pop_front());
        self.0.extend(request.filter(|_| !is_done));
    }
}
