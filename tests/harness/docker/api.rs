//! Docker's HTTP API on its socket. The command line is slower, and a separate package in newer releases.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::http;
use crate::wait::scaled;

const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Imports an image from an archive.
    pub(super) fn import(&self, image: &str, archive: &[u8]) -> Result<()> {
        let path = format!("/images/create?fromSrc=-&repo={image}");
        let answer = self.request("POST", &path, "application/x-tar", archive)?;
        // Docker sends the status before it has imported the image; a later error is in the body.
        ensure!(!answer.contains("errorDetail"), "import an image: {answer}");
        Ok(())
    }

    /// Loads images from the archive that `docker save` or an OCI tool makes.
    pub(super) fn load(&self, archive: &[u8]) -> Result<()> {
        let answer = self.request("POST", "/images/load?quiet=1", "application/x-tar", archive)?;
        // As above.
        ensure!(!answer.contains("errorDetail"), "load an image: {answer}");
        Ok(())
    }

    /// Builds an image with this name from the archive of a context, and arguments as an object of texts. The
    /// Dockerfile has its usual name in the archive.
    pub(super) fn build(&self, image: &str, context: &[u8], arguments: &Value) -> Result<()> {
        // What JSON has and a URL has not.
        let arguments = arguments.to_string().replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let path = format!("/build?q=1&t={image}&buildargs={arguments}");
        let answer = self.request("POST", &path, "application/x-tar", context)?;
        // As above.
        ensure!(!answer.contains("errorDetail"), "build an image: {answer}");
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
        let stream = UnixStream::connect(&self.socket).context("connect")?;
        stream.set_read_timeout(Some(scaled(TIMEOUT)))?;
        stream.set_write_timeout(Some(scaled(TIMEOUT)))?;
        http::request(stream, method, path, kind, body)
    }
}

fn parsed(body: &str) -> Result<Value> {
    let body = if body.trim().is_empty() { "null" } else { body };
    serde_json::from_str(body).context("the answer is not JSON")
}
