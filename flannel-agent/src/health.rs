//! The HTTP endpoint for `/healthz`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info};

use crate::metrics::{FailureKind, Format, METRICS};
use crate::problem::{Pace, Problem};
use crate::sole::once_free;

/// A connection is closed if its request has not arrived by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The state that the endpoint reports. Clones share it.
#[derive(Clone, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Makes `/readyz` succeed: the node has its subnet and has written the subnet file.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
        METRICS.ready.set(1);
    }

    /// Makes `/readyz` fail again.
    pub fn set_unready(&self) {
        self.ready.store(false, Ordering::Relaxed);
        METRICS.ready.set(0);
    }

    /// Listens on this address and port, and answers in the background until the process ends. Waits some seconds for an
    /// earlier agent to end that has the port.
    ///
    /// # Errors
    /// The address does not belong to this machine, or the port is taken.
    pub async fn listen(&self, ip: &str, port: u16) -> Result<()> {
        let used = format!("{ip} port {port}, the health endpoint's, is in use");
        let bound = once_free(&used, || TcpListener::bind((ip, port))).await;
        let listener = bound.with_context(|| {
            format!("the health endpoint cannot listen on {ip} port {port}; see --healthz-ip, --healthz-port")
        })?;
        info!(ip, port, "health endpoint");
        tokio::spawn(accept(listener, self.clone()));
        Ok(())
    }

    /// Returns status and text for a path; both are flanneld's.
    fn answer(&self, path: &str) -> (StatusCode, &'static str) {
        match path {
            "/healthz" => (StatusCode::OK, "flanneld is running"),
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "flanneld is ready"),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet"),
            _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// `accept`: the request's header of this name.
    fn respond(&self, path: &str, accept: &str) -> Response<Full<Bytes>> {
        if path != "/metrics" {
            let (status, text) = self.answer(path);
            return response(status, "text/plain; charset=utf-8", text.into());
        }
        let format = Format::accepted_by(accept);
        match METRICS.text(format) {
            Ok(text) => response(StatusCode::OK, format.content_type(), text.into()),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into()),
        }
    }
}

async fn accept(listener: TcpListener, health: Health) {
    let mut problem = Problem::new(FailureKind::Health, "the health endpoint answers again", Pace::STEADY);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                problem.solved();
                drop(tokio::spawn(answer_one(stream, health.clone())));
            }
            // For instance for lack of file descriptors.
            Err(error) => {
                problem.failed([format!("the health endpoint cannot answer: {error}")]);
                problem.wait().await;
            }
        }
    }
}

/// Answers one request and closes the connection.
async fn answer_one(stream: TcpStream, health: Health) {
    let respond = service_fn(|request: Request<Incoming>| {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let response = health.respond(request.uri().path(), accept.unwrap_or_default());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), respond).await {
        debug!("health endpoint: {error}");
    }
}

fn response(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_text_are_those_of_flanneld() {
        let health = Health::default();
        let alive = ("/healthz", 200, "flanneld is running");
        let cases =
            [alive, ("/readyz", 503, "flanneld is not ready yet"), ("/", 404, "404 page not found\n")];
        for (path, status, text) in cases {
            assert_eq!(health.answer(path), (StatusCode::from_u16(status).unwrap(), text), "{path}");
        }
        health.set_ready();
        for (path, status, text) in [alive, ("/readyz", 200, "flanneld is ready")] {
            assert_eq!(health.answer(path), (StatusCode::from_u16(status).unwrap(), text), "{path}");
        }
    }
}
