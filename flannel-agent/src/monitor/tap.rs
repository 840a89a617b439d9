//! Copies of an uplink's packets, by a packet socket (packet(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use flannel_common::capture::{Wanted, pods_frame};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use crate::dataplane::bpf::capture::Capture;

/// Room for packets that are not read yet, in bytes. The kernel counts more than their own length.
const ROOM: usize = 32 << 20;

/// A socket that receives copies of an uplink's packets.
#[derive(Debug)]
pub(super) struct Tap {
    socket: OwnedFd,
    filter: Capture,
    wanted: Wanted,
    /// Packets for which there was no room.
    lost: u64,
}

/// A copy of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copied<'a> {
    /// The pods' Ethernet frame, which may be cut off.
    pub(super) frame: &'a [u8],
    /// When it passed the uplink, since 1970 (UTC).
    pub(super) at: Duration,
}

impl Tap {
    /// Begins to copy.
    ///
    /// # Errors
    /// No privilege (`CAP_NET_RAW` and `CAP_BPF`), or the kernel refuses.
    pub(super) fn open(uplink: u32, wanted: Wanted) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol it receives nothing, until it is bound.
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)
            .context("opening a packet socket; run this as root")?;
        let mut filter = Capture::load(&wanted)?;
        filter.attach(&socket)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context("asking for times of packets")?;
        // More than the limit needs a privilege, without which there is less room.
        if setsockopt(&socket, sockopt::RcvBufForce, &ROOM).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &ROOM).context("making room for packets")?;
        }
        bind(&socket, uplink).context("binding the packet socket to the uplink")?;
        Ok(Self { socket, filter, wanted, lost: 0 })
    }

    /// Returns the next packet; `None` if there is none now.
    ///
    /// # Errors
    /// The interface is down or gone, or the socket is broken.
    pub(super) fn next<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Copied<'a>>> {
        loop {
            let (length, at) = match self.receive(buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // What the filter has let through has a frame of pods, unless it is cut off.
            if let Some(start) = pods_frame(&buffer[..length], &self.wanted) {
                return Ok(Some(Copied { frame: &buffer[start..length], at }));
            }
        }
    }

    /// Receives a packet. Returns its length in the buffer, and its time.
    fn receive(&self, buffer: &mut [u8]) -> nix::Result<(usize, Duration)> {
        let mut space = cmsg_space!(TimeSpec);
        let mut parts = [io::IoSliceMut::new(buffer)];
        let received =
            recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let time = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok((received.bytes, time.unwrap_or_else(now)))
    }

    /// Returns how many packets have not been copied so far: there were too many in a second, or they were not read fast enough.
    ///
    /// # Errors
    /// The filter's map cannot be read.
    pub(super) fn left_out(&mut self) -> Result<u64> {
        self.lost += u64::from(dropped(&self.socket).context("reading the statistics of a packet socket")?);
        Ok(self.filter.left_out()? + self.lost)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds a packet socket to all packets of an interface.
fn bind(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as u32;
    // SAFETY: pointer and length are those of an address that lives through the call.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns how many packets the kernel had no room for since the last call.
fn dropped(socket: &OwnedFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of_val(&statistics) as u32;
    let place = (&raw mut statistics).cast();
    // SAFETY: pointer and length are those of a value that lives through the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            place,
            &raw mut length,
        )
    };
    if done == 0 { Ok(statistics.tp_drops) } else { Err(io::Error::last_os_error()) }
}
