//! The receiving side of systemd's readiness protocol (sd_notify(3)).

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{
    fs::{self, Permissions},
    io,
};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wait::patience;

/// A socket that receives a daemon's messages, `READY=1` and `STATUS=`.
#[derive(Debug)]
pub(super) struct Notify {
    socket: UnixDatagram,
    ready: bool,
    status: Option<String>,
}

impl Notify {
    /// Binds a new socket at the path, without messages of an earlier process.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("remove a socket");
            }
            _ => {}
        }
        let socket = UnixDatagram::bind(path).with_context(|| format!("bind {}", path.display()))?;
        // An agent of another user sends to it, too.
        fs::set_permissions(path, Permissions::from_mode(0o666)).context("open the socket to all users")?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, ready: false, status: None })
    }

    /// Returns whether `READY=1` has come, as soon as it comes. Waits for messages up to this time.
    pub(super) fn is_ready_within(&mut self, time: Duration) -> Result<bool> {
        let end = Instant::now() + time;
        while !self.ready && self.has_message_by(end)? {
            self.listen()?;
        }
        Ok(self.ready)
    }

    /// Reads all messages that have arrived.
    pub(super) fn listen(&mut self) -> Result<()> {
        while let Some(message) = self.receive().context("read a readiness message")? {
            self.record(&message);
        }
        Ok(())
    }

    /// Waits for a status that fits, and checks each message at once when it arrives.
    pub(super) fn wait_for(&mut self, wanted: impl Fn(&str) -> bool, limit: Duration) -> Result<()> {
        let limit = patience(limit);
        let end = Instant::now() + limit;
        while !self.status().is_some_and(&wanted) {
            if !self.has_message_by(end)? {
                bail!("after {limit:?} its status is still {:?}", self.status().unwrap_or_default());
            }
            // One message at a time: a later status must not hide the wanted one.
            if let Some(message) = self.receive().context("read a readiness message")? {
                self.record(&message);
            }
        }
        Ok(())
    }

    /// Waits for a message until this time. Returns whether there is one.
    fn has_message_by(&self, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout);
        Ok(ready.context("wait for a readiness message")? > 0)
    }

    fn record(&mut self, message: &str) {
        self.ready |= message.lines().any(|line| line == "READY=1");
        let status = message.lines().find_map(|line| line.strip_prefix("STATUS="));
        self.status = status.map(str::to_owned).or(self.status.take());
    }

    /// Returns the last status.
    pub(super) fn status(&self) -> Option<&str> {
        self.status.as_deref()
    }

    fn receive(&self) -> io::Result<Option<String>> {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
