//! The daemon's side of systemd's readiness protocol.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wait::patience;

/// A socket on which a daemon says `READY=1`.
#[derive(Debug)]
pub(super) struct Notify {
    socket: UnixDatagram,
    ready: bool,
    status: Option<String>,
}

impl Notify {
    /// A new socket at the path, so that what an earlier process said does not count.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("remove a socket");
            }
            _ => {}
        }
        let socket = UnixDatagram::bind(path).with_context(|| format!("bind {}", path.display()))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, ready: false, status: None })
    }

    pub(super) fn ensure_ready(&mut self) -> Result<()> {
        self.listen()?;
        if self.ready { Ok(()) } else { bail!("it has not said READY=1") }
    }

    /// Takes in what has been said.
    pub(super) fn listen(&mut self) -> Result<()> {
        while let Some(message) = self.receive().context("read a readiness message")? {
            self.take_in(&message);
        }
        Ok(())
    }

    /// Waits, without any pause between looks, until it has said something that fits.
    pub(super) fn wait_for(&mut self, wanted: impl Fn(&str) -> bool, limit: Duration) -> Result<()> {
        let limit = patience(limit);
        let end = Instant::now() + limit;
        while !self.status().is_some_and(&wanted) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("within {limit:?} it said no more than {:?}", self.status().unwrap_or_default());
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout)?;
            // One at a time: a later word must not hide the one that is awaited.
            if let Some(message) = self.receive().context("read a readiness message")? {
                self.take_in(&message);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, message: &str) {
        self.ready |= message.lines().any(|line| line == "READY=1");
        let status = message.lines().find_map(|line| line.strip_prefix("STATUS="));
        self.status = status.map(str::to_owned).or(self.status.take());
    }

    /// What it last said of itself.
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
