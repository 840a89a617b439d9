//! Socket filters that drop notifications before they take the agent's time and memory.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Classic BPF (linux/filter.h): load a word, half a word or a byte, compare it, return.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Offset of `nlmsg_type` in `struct nlmsghdr`.
const TYPE_AT: u32 = 4;
/// Offset of `nlmsg_pid`: the port whose request caused the notification.
const PORT_AT: u32 = 12;
/// Offset of `rtm_dst_len` in `struct rtmsg`, which follows the header.
const PREFIX_LENGTH_AT: u32 = 17;

/// What a subscription leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omit {
    /// Changes that the socket with this netlink port requested.
    RequestsFrom(u32),
    /// Changes of routes that are no default routes.
    RoutesToSubnets,
}

impl Omit {
    /// Sets the filter.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn apply_to(self, socket: &impl AsRawFd) -> io::Result<()> {
        let mut program = self.program();
        attach(socket.as_raw_fd(), &mut program)
    }

    /// Returns the filter's program. Words are loaded in network byte order.
    fn program(self) -> Vec<libc::sock_filter> {
        let step = |code, k: u32, jt, jf| libc::sock_filter { code, jt, jf, k };
        let is_type = |kind: u16, jt, jf| step(JUMP_IF_EQUAL, kind.to_be().into(), jt, jf);
        match self {
            Self::RequestsFrom(port) => vec![
                step(LOAD_WORD, PORT_AT, 0, 0),
                step(JUMP_IF_EQUAL, port.to_be(), 0, 1),
                step(RETURN, 0, 0, 0),
                step(RETURN, u32::MAX, 0, 0),
            ],
            Self::RoutesToSubnets => vec![
                step(LOAD_HALF, TYPE_AT, 0, 0),
                is_type(libc::RTM_NEWROUTE, 1, 0),
                is_type(libc::RTM_DELROUTE, 0, 2),
                step(LOAD_BYTE, PREFIX_LENGTH_AT, 0, 0),
                step(JUMP_IF_EQUAL, 0, 0, 1),
                step(RETURN, u32::MAX, 0, 0),
                step(RETURN, 0, 0, 0),
            ],
        }
    }
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
