//! Docker's HTTP API on its socket: its command line is a package of its own in newer releases, and slower.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::wait::patience;

const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Makes an image of an archive.
    pub(super) fn import(&self, image: &str, archive: &[u8]) -> Result<()> {
        let path = format!("/images/create?fromSrc=-&repo={image}");
        let answer = self.request("POST", &path, "application/x-tar", archive)?;
        // The status is sent before the work is done.
        ensure!(!answer.contains("errorDetail"), "import an image: {answer}");
        Ok(())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        parsed(&self.request("POST", path, "application/json", body.as_bytes())?)
    }

    pub(super) fn get(&self, path: &str) -> Result<Value> {
        parsed(&self.text(path)?)
    }

    pub(super) fn text(&self, path: &str) -> Result<String> {
        self.request("GET", path, "application/json", b"")
    }

    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<String> {
        let answer = self.exchange(method, path, kind, body);
        answer.with_context(|| format!("{method} {path} at {}", self.socket.display()))
    }

    fn exchange(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket).context("connect")?;
        stream.set_read_timeout(Some(patience(TIMEOUT)))?;
        stream.set_write_timeout(Some(patience(TIMEOUT)))?;
        let length = body.len();
        // With HTTP/1.0 the answer is not chunked and ends with the connection.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status.starts_with('2'), "status {status}: {}", body.trim());
        Ok(body.to_owned())
    }
}

fn parsed(body: &str) -> Result<Value> {
    let body = if body.trim().is_empty() { "null" } else { body };
    serde_json::from_str(body).context("the answer is not JSON")
}
