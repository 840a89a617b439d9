//! Requests to the API server.

use std::iter;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use http_body_util::{BodyExt as _, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::timeout;

use super::access::{Access, Connected};
use crate::metrics;

/// The name of this client in the API server's logs and in `managedFields`.
const AGENT: &str = concat!("flannel-agent/", env!("CARGO_PKG_VERSION"));
const JSON: &str = "application/json";
/// Longest time until an answer begins. A list of all nodes of a large cluster takes the API server a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer that is read at once, in bytes. A Node is limited to 1.5 MiB by etcd.
const ANSWER_MAX: usize = 4 << 20;

/// A request, and the right that it needs.
pub(super) struct Call<'a> {
    /// The verb in a ClusterRole.
    pub verb: &'static str,
    /// The resource in a ClusterRole.
    pub resource: &'static str,
    pub path: String,
    pub body: Option<Content<'a>>,
}

/// The body of a request.
pub(super) enum Content<'a> {
    /// A new object.
    New(&'a str),
    /// A strategic merge patch.
    Patch(&'a str),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The API server answered that it did not do it.
    #[error("{0}")]
    Status(Status),
    /// There is no answer that can be used.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// An answer that something was not done.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: the API server says: {message} ({code}){remedy}")]
pub(super) struct Status {
    pub doing: String,
    pub code: u16,
    pub message: String,
    pub remedy: String,
}

/// The API server. Clients are made from files that may change, so a failure makes the next request read them again.
pub(super) struct Api {
    access: Access,
    connected: Mutex<Option<Connected>>,
}

impl Api {
    pub(super) fn new(access: Access) -> Self {
        Self { access, connected: Mutex::new(None) }
    }

    /// Sends a request, and returns the whole answer.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Vec<u8>, ApiError> {
        let response = self.open(call).await?;
        let body = timeout(ANSWER_TIMEOUT, Limited::new(response.into_body(), ANSWER_MAX).collect()).await;
        match body {
            Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
            Ok(Err(error)) => Err(self.failed(call, &innermost(&*error))),
            Err(_) => Err(self.failed(call, "the answer does not end")),
        }
    }

    /// Sends a request, and returns the answer as soon as it begins.
    pub(super) async fn open(&self, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
        let Connected { client, url } = self.connected().await?;
        let at = |problem: &str| self.failed(call, &format!("{url}: {problem}"));
        let request = call.request().map_err(|error| at(&error.to_string()))?;
        let measured = metrics::Request::begin();
        let answer = timeout(ANSWER_TIMEOUT, client.send(request)).await;
        measured.end(matches!(answer, Ok(Ok(_))));
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(at(&innermost(&error))),
            Err(_) => return Err(at(&format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            // The token has expired. The file may have another one by now.
            self.reconnect();
        }
        Err(ApiError::Status(status(call, response).await))
    }

    /// Makes the next request read the files again, and use a connection of its own.
    pub(super) fn reconnect(&self) {
        *self.lock() = None;
    }

    fn failed(&self, call: &Call<'_>, problem: &str) -> ApiError {
        self.reconnect();
        ApiError::Failed(anyhow!("{call}: {problem}"))
    }

    async fn connected(&self) -> Result<Connected> {
        if let Some(connected) = &*self.lock() {
            return Ok(connected.clone());
        }
        let connected = self.access.connect().await?;
        *self.lock() = Some(connected.clone());
        Ok(connected)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connected>> {
        // No code that holds the lock can panic in the middle of a change.
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call<'_> {
    pub(super) fn get(verb: &'static str, resource: &'static str, path: String) -> Self {
        Self { verb, resource, path, body: None }
    }

    fn request(&self) -> Result<Request<Body>, hyper::http::Error> {
        let request = Request::builder().uri(&self.path).header(USER_AGENT, AGENT).header(ACCEPT, JSON);
        match self.body {
            None => request.body(Body::empty()),
            Some(Content::New(text)) => {
                request.method(Method::POST).header(CONTENT_TYPE, JSON).body(text.as_bytes().to_vec().into())
            }
            Some(Content::Patch(text)) => request
                .method(Method::PATCH)
                .header(CONTENT_TYPE, "application/strategic-merge-patch+json")
                .body(text.as_bytes().to_vec().into()),
        }
    }

    /// Describes an answer of the API server that something was not done.
    pub(super) fn status(&self, code: u16, message: String) -> Status {
        let remedy = match code {
            401 => "; its token or certificate is missing, wrong or has expired".to_owned(),
            403 => format!(
                "; add to the ClusterRole of flannel: apiGroups [\"\"], resources [\"{}\"], verbs [\"{}\"]",
                self.resource, self.verb
            ),
            _ => String::new(),
        };
        Status { doing: self.to_string(), code, message, remedy }
    }
}

impl std::fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, resource, path, .. } = self;
        write!(f, "{verb} {resource} ({})", path.split('?').next().unwrap_or(path))
    }
}

impl ApiError {
    /// Returns the HTTP code of the API server's answer, if there is one.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status.code),
            Self::Failed(_) => None,
        }
    }
}

/// Reads the reason of an answer that something was not done.
async fn status(call: &Call<'_>, response: Response<Body>) -> Status {
    #[derive(Deserialize)]
    struct Answer {
        message: String,
    }
    let code = response.status().as_u16();
    let reading = timeout(ANSWER_TIMEOUT, Limited::new(response.into_body(), ANSWER_MAX).collect());
    let text = match reading.await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Default::default(),
    };
    let message = serde_json::from_slice(&text).map_or_else(
        |_| String::from_utf8_lossy(text.get(..200).unwrap_or(&text)).trim().to_owned(),
        |Answer { message }| message,
    );
    call.status(code, message)
}

/// Returns the innermost cause of an error, such as "Connection refused".
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = iter::successors(Some(error), |cause| cause.source()).last().unwrap_or(error).to_string();
    // rustls adds the address of a page about it.
    innermost.split(": https://docs.rs").next().unwrap_or(&innermost).to_owned()
}

/// Returns the time as the API writes it, such as `2021-03-04T05:06:07Z`.
pub(super) fn timestamp() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
