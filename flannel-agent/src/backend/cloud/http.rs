//! Requests to a cloud's interface and to its metadata server.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::CloudError;

/// An answer has come whole by then.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer in bytes: a page of routes is far shorter.
const LONGEST: usize = 8 << 20;
/// An idle connection is closed after this time: the next request comes minutes later.
const IDLE: Duration = Duration::from_secs(30);

/// A client. Clones share its connections.
#[derive(Clone, Debug)]
pub(in crate::backend) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// An answer.
#[derive(Debug)]
pub(in crate::backend) struct Answer {
    pub(in crate::backend) status: StatusCode,
    pub(in crate::backend) headers: HeaderMap,
    pub(in crate::backend) body: Bytes,
}

impl Http {
    /// Returns a client that trusts the system's authorities.
    pub(in crate::backend) async fn open() -> Result<Self, CloudError> {
        // It reads files.
        let connector = spawn_blocking(|| HttpsConnectorBuilder::new().with_native_roots()).await;
        let connector = connector.map_err(|error| CloudError::failed(error.to_string()))?.map_err(|error| {
            CloudError::failed(format!(
                "no certificate authorities to check the cloud's certificate by: {error}. Install the package ca-certificates"
            ))
        })?;
        let connector = connector.https_or_http().enable_http1().build();
        let mut client = Client::builder(TokioExecutor::new());
        Ok(Self(client.pool_idle_timeout(IDLE).pool_max_idle_per_host(1).build(connector)))
    }

    /// Sends a request, and returns the answer whatever its status.
    pub(in crate::backend) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, CloudError> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let answer = timeout(DEADLINE, self.exchange(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs())));
        answer.map_err(|error| CloudError::failed(format!("{host}: {error}")))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let answer = self.0.request(request).await.map_err(|error| chain(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| chain(&*error))?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

impl Answer {
    /// Returns for how long the server wants no further request, if it says so in seconds.
    pub(in crate::backend) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// Returns the body as text.
    pub(in crate::backend) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// All but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns a text as it stands in a query or in a form.
pub(in crate::backend) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Returns names and values as a query or a form.
pub(in crate::backend) fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let pairs = pairs.into_iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Returns an error with its causes.
pub(in crate::backend) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
