//! Requests to the datastore that are repeated until they succeed.

use anyhow::Result;
use tracing::error;

use super::RETRY;
use crate::metrics::{FailureKind, METRICS};
use crate::notify;

/// Repeats the attempt until it succeeds. Each problem is logged once.
pub(super) async fn until_it_works<T, F: Future<Output = Result<T>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> T {
    let mut logged = String::new();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                METRICS.count_failure(FailureKind::Datastore);
                let problem = format!("{error:#}");
                if problem != logged {
                    notify::status(&format!("{what}: {problem}"));
                    error!("{what}: {problem}; trying again every {} s", RETRY.as_secs());
                    logged = problem;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
