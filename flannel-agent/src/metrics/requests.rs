//! How long requests to the datastore take.

use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use super::METRICS;
use super::labels::{RequestLabels, RequestResult};

/// Upper ends of the buckets in seconds: a file, a datastore nearby, one that is far away or busy, one that hangs.
const BUCKETS: [f64; 7] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0];

/// Durations of requests, by result.
#[derive(Clone, Debug)]
pub struct Requests(pub(super) Metric<RequestLabels, Histogram, fn() -> Histogram>);

impl Default for Requests {
    fn default() -> Self {
        let requests = Metric::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        for result in RequestResult::ALL.iter().copied() {
            drop(requests.get_or_create(&RequestLabels { result }));
        }
        Self(requests)
    }
}

/// A request that has begun. It is measured when it ends, or when this is dropped before.
#[derive(Debug)]
pub struct Request {
    begin: Instant,
    result: RequestResult,
}

impl Request {
    /// Begins one.
    #[must_use]
    pub fn begin() -> Self {
        Self { begin: Instant::now(), result: RequestResult::Dropped }
    }

    /// Ends it.
    pub fn end(mut self, is_answered: bool) {
        self.result = if is_answered { RequestResult::Answered } else { RequestResult::Failed };
    }

    /// Measures what does not wait for others: reading and writing a file.
    ///
    /// # Errors
    /// Those of the work.
    pub fn measure<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let request = Self::begin();
        let result = work();
        request.end(result.is_ok());
        result
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let labels = RequestLabels { result: self.result };
        METRICS.datastore_requests.0.get_or_create(&labels).observe(self.begin.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    /// Returns how many requests had this result.
    fn count(result: &str) -> f64 {
        let text = METRICS.text(Format::OpenMetrics).unwrap();
        let name = format!("flannel_datastore_request_duration_seconds_count{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }

    #[test]
    fn each_request_is_counted_once_by_its_end() {
        let before = ["answered", "failed", "dropped"].map(count);
        Request::begin().end(true);
        Request::measure(|| Err::<(), _>(())).unwrap_err();
        drop(Request::begin());
        let after = ["answered", "failed", "dropped"].map(count);
        // Other tests of this process have requests, too.
        assert!(
            before.iter().zip(after).all(|(before, after)| after >= before + 1.0),
            "{before:?} {after:?}"
        );
    }
}
