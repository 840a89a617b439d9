//! TCP connections as the connection tracker knows them (include/uapi/linux/netfilter/nfnetlink_conntrack.h).

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys::Socket;

use super::raw::{attribute, next_message, put, put_message, put_nested, u32_at};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK` and `enum cntl_msg_types`.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;
/// `enum ctattr_type`
const TUPLE_ORIG: u16 = 1;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
/// `enum ctattr_protoinfo` and `enum ctattr_protoinfo_tcp`
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS: [u16; 2] = [4, 5];
/// Length of `struct nfgenmsg`.
const GENERIC: usize = 4;
/// Longest time for the kernel to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many answers fit into a socket's buffer.
const AT_ONCE: usize = 64;
/// An answer is shorter: the kernel makes it in a page.
const ANSWER: usize = 8192;

/// `TCP_CONNTRACK_ESTABLISHED`
pub const ESTABLISHED: u8 = 3;

/// `IP_CT_TCP_FLAG_BE_LIBERAL`: what this side sends is valid outside the window, too.
pub const BE_LIBERAL: u8 = 0x08;
/// `IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED`: the other side has not yet acknowledged what this side has sent, as far as was seen.
pub const UNACKNOWLEDGED: u8 = 0x10;
/// `IP_CT_TCP_FLAG_MAXACK_SET`: this side has acknowledged something. A reset by the other side is invalid if its number is
/// before that.
pub const MAXACK_SET: u8 = 0x20;

/// A packet's addresses and ports, by which a connection is found: those of a packet from either side, before it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `enum tcp_conntrack`
    pub state: u8,
    /// In how many seconds it is forgotten, if no packet comes.
    pub timeout: u32,
    /// The flags of both sides.
    pub flags: [u8; 2],
}

/// What to change about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Flags that both sides get.
    pub set: u8,
    /// Flags that both sides lose.
    pub clear: u8,
    /// In how many seconds it is forgotten; `None`: as it was.
    pub timeout: Option<u32>,
}

/// A socket for requests to the connection tracker. They need `CAP_NET_ADMIN`.
pub struct Tracker(Socket);

impl Tracker {
    /// Opens the socket.
    ///
    /// # Errors
    /// The kernel has no netfilter over netlink.
    pub fn open() -> Result<Self> {
        let what = "opening a netlink socket for connection tracking";
        let mut socket = Socket::new(NETLINK_NETFILTER).context(what)?;
        socket.bind_auto().context(what)?;
        // SAFETY: `socket` owns the descriptor, and outlives this use of it.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
        setsockopt(&fd.as_fd(), sockopt::ReceiveTimeout, &patience).context(what)?;
        Ok(Self(socket))
    }

    /// Returns what is known of these connections, in their order; `None` for those that are not known.
    ///
    /// # Errors
    /// The kernel has no `nf_conntrack_netlink`, or does not answer.
    pub fn entries(&self, tuples: &[Tuple]) -> Result<Vec<Option<Entry>>> {
        let flags = libc::NLM_F_REQUEST;
        let answers = self.ask(tuples, |bytes, number, tuple| {
            put_request(bytes, CT_GET, flags, number, tuple, |_| {});
        })?;
        Ok(answers.into_iter().map(Answer::entry).collect())
    }

    /// Changes these connections. Those that are gone are left out.
    ///
    /// # Errors
    /// As of [`Self::entries`].
    pub fn change(&self, changes: &[(Tuple, Change)]) -> Result<()> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        self.ask(changes, |bytes, number, (tuple, change)| {
            put_request(bytes, CT_NEW, flags, number, tuple, |bytes| change.put(bytes));
        })
        .map(drop)
    }

    /// Sends a request for each of `all`, and returns the answers in their order.
    fn ask<T>(&self, all: &[T], put: impl Fn(&mut Vec<u8>, u32, &T)) -> Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(all.len());
        let mut request = Vec::new();
        for some in all.chunks(AT_ONCE) {
            request.clear();
            (0..).zip(some).for_each(|(number, one)| put(&mut request, number, one));
            self.0.send(&request, 0).context("asking the connection tracker")?;
            answers.extend(self.answers(some.len())?);
        }
        Ok(answers)
    }

    /// Reads this number of answers, in the order of their requests' numbers.
    fn answers(&self, wanted: usize) -> Result<Vec<Answer>> {
        let mut answers = vec![Answer::Unknown; wanted];
        let (mut buffer, mut read) = (Vec::with_capacity(ANSWER), 0);
        while read < wanted {
            buffer.clear();
            self.0.recv(&mut buffer, 0).context("reading the connection tracker's answers")?;
            let mut bytes = &buffer[..];
            while let Some((kind, number, message, rest)) = next_message(bytes) {
                bytes = rest;
                read += 1;
                if let Some(place) = usize::try_from(number).ok().and_then(|at| answers.get_mut(at)) {
                    *place = Answer::read(kind, message)?;
                }
            }
        }
        Ok(answers)
    }
}

/// What the kernel answers to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It knows no such connection, or has done what was asked.
    Unknown,
    Entry(Entry),
}

impl Answer {
    fn read(kind: u16, message: &[u8]) -> Result<Self> {
        if i32::from(kind) != libc::NLMSG_ERROR {
            return Ok(entry(message).map_or(Self::Unknown, Self::Entry));
        }
        let error = u32_at(message, 0).map_or(0, |error| error.cast_signed().wrapping_neg());
        match error {
            0 | libc::ENOENT | libc::ETIME | libc::EPERM => Ok(Self::Unknown),
            _ => {
                let error = std::io::Error::from_raw_os_error(error);
                if error.kind() == ErrorKind::InvalidInput {
                    bail!("the kernel does not have nf_conntrack_netlink");
                }
                Err(error).context("the connection tracker refuses a request")
            }
        }
    }

    const fn entry(self) -> Option<Entry> {
        match self {
            Self::Unknown => None,
            Self::Entry(entry) => Some(entry),
        }
    }
}

/// Appends a request about a connection. `more` appends further attributes.
fn put_request(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: i32,
    number: u32,
    tuple: &Tuple,
    more: impl FnOnce(&mut Vec<u8>),
) {
    let flags = u16::try_from(flags).unwrap_or_default();
    put_message(bytes, (kind, flags, number), |bytes| {
        let family = if tuple.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        bytes.extend([family.to_ne_bytes()[0], 0, 0, 0]);
        put_nested(bytes, TUPLE_ORIG, |bytes| tuple.put(bytes));
        more(bytes);
    });
}

impl Tuple {
    /// Appends `enum ctattr_tuple`, `ctattr_ip` and `ctattr_l4proto`.
    fn put(&self, bytes: &mut Vec<u8>) {
        let [source, destination] = [self.source, self.destination];
        put_nested(bytes, 1, |bytes| match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                put(bytes, 1, &source.octets());
                put(bytes, 2, &destination.octets());
            }
            (source, destination) => {
                put(bytes, 3, &v6(source));
                put(bytes, 4, &v6(destination));
            }
        });
        put_nested(bytes, 2, |bytes| {
            put(bytes, 1, &libc::IPPROTO_TCP.to_ne_bytes()[..1]);
            put(bytes, 2, &source.port().to_be_bytes());
            put(bytes, 3, &destination.port().to_be_bytes());
        });
    }
}

const fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Change {
    fn put(&self, bytes: &mut Vec<u8>) {
        if let Some(timeout) = self.timeout {
            put(bytes, TIMEOUT, &timeout.to_be_bytes());
        }
        put_nested(bytes, PROTOINFO, |bytes| {
            put_nested(bytes, PROTOINFO_TCP, |bytes| {
                // `struct nf_ct_tcp_flags`: the flags, and which of them to change.
                TCP_FLAGS.into_iter().for_each(|side| put(bytes, side, &[self.set, self.set | self.clear]));
            });
        });
    }
}

/// Reads a connection. `None` if it is not TCP.
fn entry(message: &[u8]) -> Option<Entry> {
    let attributes = message.get(GENERIC..)?;
    let tcp = attribute(attribute(attributes, PROTOINFO)?, PROTOINFO_TCP)?;
    let flags = |side| Some(*attribute(tcp, side)?.first()?);
    let timeout = attribute(attributes, TIMEOUT)?;
    Some(Entry {
        state: *attribute(tcp, TCP_STATE)?.first()?,
        timeout: u32::from_be_bytes(timeout.try_into().ok()?),
        flags: [flags(TCP_FLAGS[0])?, flags(TCP_FLAGS[1])?],
    })
}
