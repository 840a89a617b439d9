//! A socket filter that drops notifications about a socket's own requests.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Classic BPF (linux/filter.h): load a word, compare it, return.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Offset of `nlmsg_pid` in `struct nlmsghdr`: the port whose request caused the notification.
const PORT_AT: u32 = 12;

/// Drops notifications about requests from this netlink port.
///
/// # Errors
/// The kernel refuses the filter.
pub(super) fn ignore_requests_from(socket: &impl AsRawFd, port: u32) -> io::Result<()> {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD_WORD, PORT_AT, 0, 0),
        // Words are loaded in network byte order.
        step(JUMP_IF_EQUAL, port.to_be(), 0, 1),
        step(RETURN, 0, 0, 0),
        step(RETURN, u32::MAX, 0, 0),
    ];
    attach(socket.as_raw_fd(), &mut program)
}

fn attach(socket: RawFd, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points to `len` instructions, which outlive the call; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
