//! Requests to the datastore that are repeated until they succeed.

use anyhow::Result;

use crate::metrics::FailureKind;
use crate::notify;
use crate::problem::{Pace, Problem};

/// Repeats the attempt until it succeeds.
pub(super) async fn until_it_works<T, F: Future<Output = Result<T>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> T {
    let mut problem = Problem::new(FailureKind::Datastore, format!("{what} works again"), Pace::STEADY);
    loop {
        match attempt().await {
            Ok(value) => {
                problem.solved();
                return value;
            }
            Err(error) => {
                for text in problem.failed([format!("{what}: {error:#}")]) {
                    notify::status(&text);
                }
                problem.wait().await;
            }
        }
    }
}
