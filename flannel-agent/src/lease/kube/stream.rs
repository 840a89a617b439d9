//! Reads long answers piece by piece: a watch line by line, a list item by item. No answer is in memory as a whole.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Bytes;
use kube::client::Body;
use tokio::time::timeout;

use super::api::innermost;

/// Longest line of a watch and longest item of a list, in bytes. etcd limits an object to 1.5 MiB.
const OBJECT_MAX: usize = 8 << 20;

/// The pieces of an answer, as they arrive.
pub(super) struct Chunks {
    body: Body,
}

impl Chunks {
    pub(super) fn new(response: Response<Body>) -> Self {
        Self { body: response.into_body() }
    }

    /// Returns the next piece; `None` at the regular end. It may be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| anyhow!("the answer broke off: {}", innermost(&error)))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Like [`Self::next`]; no piece within this time is an error.
    pub(super) async fn next_within(&mut self, patience: Duration) -> Result<Option<Bytes>> {
        let next = timeout(patience, self.next()).await;
        next.with_context(|| format!("the answer stopped for {} s", patience.as_secs()))?
    }
}

/// The lines of an answer.
pub(super) struct Lines {
    chunks: Chunks,
    buffer: Vec<u8>,
    /// Start of the next line.
    start: usize,
    /// No line ends between `start` and here.
    searched: usize,
}

impl Lines {
    pub(super) fn new(response: Response<Body>) -> Self {
        Self { chunks: Chunks::new(response), buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// Returns the next line; `None` at the end, also of one that has no end. It may be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>> {
        let end = loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = unsearched.iter().position(|byte| *byte == b'\n') {
                break self.searched + at;
            }
            self.searched = self.buffer.len();
            let Some(chunk) = self.chunks.next().await? else { return Ok(None) };
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
            self.buffer.extend_from_slice(&chunk);
            ensure!(self.searched <= OBJECT_MAX, "an event is longer than {OBJECT_MAX} bytes");
        };
        let line = self.start..end;
        self.start = end + 1;
        self.searched = self.start;
        Ok(self.buffer.get(line))
    }
}

/// Takes the items out of a list while it arrives. What remains is the list without its items.
#[derive(Default)]
pub(super) struct ListSplitter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The innermost value but one is an array of the list itself, which is `items`.
    in_items: bool,
    /// The beginning of an item whose end has yet to arrive.
    item: Vec<u8>,
    /// The list without its items.
    rest: Vec<u8>,
}

impl ListSplitter {
    /// Takes in a piece. Calls `take` with each item that ends in it.
    pub(super) fn feed(&mut self, piece: &[u8], mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        // Where the part of an item begins that has yet to be kept.
        let mut start = 0;
        for (at, byte) in piece.iter().copied().enumerate() {
            let inside = self.in_items && self.depth > 2;
            if self.step(byte) {
                start = at;
            } else if inside && self.depth == 2 {
                let end = piece.get(start..=at).unwrap_or_default();
                if self.item.is_empty() {
                    take(end)?;
                } else {
                    self.item.extend_from_slice(end);
                    take(&self.item)?;
                    self.item.clear();
                }
            } else if !(inside || self.in_items && self.depth == 2 && byte == b',') {
                self.rest.push(byte);
            }
        }
        if self.in_items && self.depth > 2 {
            self.item.extend_from_slice(piece.get(start..).unwrap_or_default());
        }
        ensure!(
            self.item.len().max(self.rest.len()) <= OBJECT_MAX,
            "an item is longer than {OBJECT_MAX} bytes"
        );
        Ok(())
    }

    /// Returns the list without its items, or `None` if its end is missing.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (self.depth == 0 && !self.rest.is_empty()).then_some(self.rest)
    }

    /// Follows strings and nesting. Returns true at the first byte of an item.
    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth == 2 {
                    self.in_items = byte == b'[';
                }
                return self.in_items && self.depth == 3;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.in_items &= self.depth > 1;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests;
