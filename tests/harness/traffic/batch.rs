//! Sends and receives many datagrams with one system call, so that measurements are not limited by sockets.

use std::io;
use std::os::fd::AsRawFd;
use std::{mem, ptr};

use anyhow::{Context as _, Result};

/// Datagrams of a batch.
pub(super) const COUNT: usize = 64;

/// Buffers of equal size for `sendmmsg` and `recvmmsg`.
pub(super) struct DatagramBatch {
    size: usize,
    data: Vec<u8>,
}

impl DatagramBatch {
    pub(super) fn new(size: usize) -> Self {
        Self { size, data: vec![0; size * COUNT] }
    }

    /// Copies the bytes into every buffer.
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        self.each().for_each(|buffer| buffer.copy_from_slice(bytes));
    }

    /// Returns the buffers.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.data.chunks_mut(self.size.max(1))
    }

    /// Sends all buffers. Returns how many were sent, 0 if the queue is full.
    pub(super) fn send(&mut self, socket: &impl AsRawFd) -> Result<usize> {
        let mut buffers = self.buffers();
        let mut messages = headers(&mut buffers);
        // SAFETY: `messages` holds COUNT headers, whose buffers `self` owns and is borrowed for.
        let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), COUNT as u32, 0) };
        accept(count, &[libc::ENOBUFS, libc::EAGAIN, libc::EINTR, libc::ECONNREFUSED]).context("send a batch")
    }

    /// Receives what has arrived, without waiting. Returns the lengths.
    pub(super) fn receive(&mut self, socket: &impl AsRawFd) -> Result<Vec<usize>> {
        let mut buffers = self.buffers();
        let mut messages = headers(&mut buffers);
        // The type of flags depends on the C library.
        let (first, flags, timeout) = (messages.as_mut_ptr(), libc::MSG_DONTWAIT as _, ptr::null_mut());
        // SAFETY: as for sending; the kernel writes into the buffers within their lengths.
        let count = unsafe { libc::recvmmsg(socket.as_raw_fd(), first, COUNT as u32, flags, timeout) };
        let count = accept(count, &[libc::EAGAIN, libc::EINTR]).context("receive a batch")?;
        Ok(messages[..count].iter().map(|message| message.msg_len as usize).collect())
    }

    fn buffers(&mut self) -> [libc::iovec; COUNT] {
        let (size, base) = (self.size, self.data.as_mut_ptr());
        std::array::from_fn(|i| libc::iovec { iov_base: base.wrapping_add(i * size).cast(), iov_len: size })
    }
}

fn headers(buffers: &mut [libc::iovec; COUNT]) -> [libc::mmsghdr; COUNT] {
    std::array::from_fn(|i| {
        // SAFETY: all zeroes is a header with no address, no buffers and no control data.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut buffers[i];
        message.msg_hdr.msg_iovlen = 1;
        message
    })
}

fn accept(count: i32, harmless: &[i32]) -> io::Result<usize> {
    let error = io::Error::last_os_error();
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) if error.raw_os_error().is_some_and(|code| harmless.contains(&code)) => Ok(0),
        Err(_) => Err(error),
    }
}
