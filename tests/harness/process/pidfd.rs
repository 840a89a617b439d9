//! A process handle that stays valid when the pid is reused.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};
use std::{io, ptr};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::wait::patience;

#[derive(Debug)]
pub(crate) struct PidFd {
    pid: u32,
    fd: OwnedFd,
}

impl PidFd {
    pub(crate) fn open(pid: u32) -> Result<Self> {
        // SAFETY: pidfd_open takes two integers and accesses no memory of this process.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        ensure!(fd >= 0, "open process {pid}: {}", io::Error::last_os_error());
        let fd = i32::try_from(fd).context("a file descriptor fits i32")?;
        // SAFETY: the kernel has just returned this descriptor, which has no other owner.
        Ok(Self { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo is what kill() would send; the descriptor is open.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal as libc::c_int, info, 0)
        };
        ensure!(sent == 0, "send {signal} to process {}: {}", self.pid, io::Error::last_os_error());
        Ok(())
    }

    /// Waits until the process has ended. It may still be a zombie.
    pub(crate) fn wait(&self, limit: Duration) -> Result<()> {
        let limit = patience(limit);
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd is passed, and its count of one with it.
            let ready = unsafe { libc::poll(&raw mut poll, 1, timeout) };
            match ready {
                1.. => return Ok(()),
                0 => anyhow::bail!("process {} still runs after {limit:?}", self.pid),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(io::Error::last_os_error()).context("poll a process"),
            }
        }
    }
}
