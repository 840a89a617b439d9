//! HTTP requests to etcd, dockerd and kube-apiserver.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context as _, Result, ensure};

/// Sends a request over a new connection and returns the body of the answer. Fails if the status is not 2xx.
pub(crate) fn request(
    stream: impl Read + Write,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> Result<String> {
    let (status, body) = exchange(stream, method, path, content_type, body)?;
    ensure!((200..300).contains(&status), "status {status}: {}", body.trim());
    Ok(body)
}

/// Sends a request over a new connection and returns status and body of the answer.
///
/// Uses HTTP/1.0: the answer is not chunked and ends with the connection.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> Result<(u16, String)> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The server needs not read the end of a request: the padding of an archive. Its answer has been read by then.
        Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {}
        read => {
            read?;
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.parse().context("the answer has no status")?, body.to_owned()))
}
