//! Connections as the connection tracker knows them (include/uapi/linux/netfilter/nfnetlink_conntrack.h).

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys::Socket;

use super::address::mapped;
use super::raw::{attribute, next_message, put, put_message, put_nested, u32_at};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK` and `enum cntl_msg_types`.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;
/// `enum ctattr_type`
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
/// `enum ctattr_protoinfo` and `enum ctattr_protoinfo_tcp`
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS: [u16; 2] = [4, 5];
/// `enum ctattr_tuple`: addresses and ports.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// `IPS_SEEN_REPLY`
const SEEN_REPLY: u32 = 2;
/// Length of `struct nfgenmsg`.
const GENERIC: usize = 4;
/// `IPPROTO_TCP`
const TCP: u8 = 6;
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

/// Both directions of a connection, and whether the other side has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions {
    /// As its first packet was, before it was translated.
    pub original: Tuple,
    /// As its answers are, before they are translated back.
    pub reply: Tuple,
    /// Whether an answer has come.
    pub answered: bool,
}

impl Directions {
    /// Returns whether a packet of this connection is none of those before the first answer.
    #[must_use]
    pub fn is_established(&self, packet: &Tuple) -> bool {
        self.answered || *packet != self.original
    }
}

/// What is known of a TCP connection.
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

    /// Returns what is known of these TCP connections, in their order; `None` for those that are not known.
    ///
    /// # Errors
    /// The kernel has no `nf_conntrack_netlink`, or does not answer.
    pub fn entries(&self, tuples: &[Tuple]) -> Result<Vec<Option<Entry>>> {
        let flags = libc::NLM_F_REQUEST;
        let put = |bytes: &mut Vec<u8>, number, tuple: &Tuple| {
            put_request(bytes, (CT_GET, flags, number), (tuple, TCP), |_| {});
        };
        self.ask(tuples, put, entry)
    }

    /// Returns the connection of TCP or UDP that a packet with this tuple belongs to, in either direction; `None` if it is not known.
    ///
    /// # Errors
    /// As of [`Self::entries`].
    pub fn directions(&self, protocol: u8, tuple: Tuple) -> Result<Option<Directions>> {
        let put = |bytes: &mut Vec<u8>, number, tuple: &Tuple| {
            put_request(bytes, (CT_GET, libc::NLM_F_REQUEST, number), (tuple, protocol), |_| {});
        };
        Ok(self.ask(&[tuple], put, directions)?.pop().flatten())
    }

    /// Changes these TCP connections. Those that are gone are left out.
    ///
    /// # Errors
    /// As of [`Self::entries`].
    pub fn change(&self, changes: &[(Tuple, Change)]) -> Result<()> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let put = |bytes: &mut Vec<u8>, number, (tuple, change): &(Tuple, Change)| {
            put_request(bytes, (CT_NEW, flags, number), (tuple, TCP), |bytes| change.put(bytes));
        };
        self.ask(changes, put, |_| Some(())).map(drop)
    }

    /// Sends a request for each of `all`, and returns the answers in their order, as `read` reads them.
    fn ask<T, A>(
        &self,
        all: &[T],
        put: impl Fn(&mut Vec<u8>, u32, &T),
        read: impl Fn(&[u8]) -> Option<A>,
    ) -> Result<Vec<Option<A>>> {
        let mut answers = Vec::with_capacity(all.len());
        let mut request = Vec::new();
        for some in all.chunks(AT_ONCE) {
            request.clear();
            (0..).zip(some).for_each(|(number, one)| put(&mut request, number, one));
            self.0.send(&request, 0).context("asking the connection tracker")?;
            answers.extend(self.answers(some.len(), &read)?);
        }
        Ok(answers)
    }

    /// Reads this number of answers, in the order of their requests' numbers.
    fn answers<A>(&self, wanted: usize, read: impl Fn(&[u8]) -> Option<A>) -> Result<Vec<Option<A>>> {
        let mut answers: Vec<_> = (0..wanted).map(|_| None).collect();
        let (mut buffer, mut count) = (Vec::with_capacity(ANSWER), 0);
        while count < wanted {
            buffer.clear();
            self.0.recv(&mut buffer, 0).context("reading the connection tracker's answers")?;
            let mut bytes = &buffer[..];
            while let Some((kind, number, message, rest)) = next_message(bytes) {
                bytes = rest;
                count += 1;
                if let Some(place) = usize::try_from(number).ok().and_then(|at| answers.get_mut(at)) {
                    *place = answer(kind, message, &read)?;
                }
            }
        }
        Ok(answers)
    }
}

/// Reads what the kernel answers to a request. `None`: it knows no such connection, or has done what was asked.
fn answer<A>(kind: u16, message: &[u8], read: impl Fn(&[u8]) -> Option<A>) -> Result<Option<A>> {
    if i32::from(kind) != libc::NLMSG_ERROR {
        return Ok(read(message));
    }
    let error = u32_at(message, 0).map_or(0, |error| error.cast_signed().wrapping_neg());
    match error {
        0 | libc::ENOENT | libc::ETIME | libc::EPERM => Ok(None),
        _ => {
            let error = std::io::Error::from_raw_os_error(error);
            if error.kind() == ErrorKind::InvalidInput {
                bail!("the kernel does not have nf_conntrack_netlink");
            }
            Err(error).context("the connection tracker refuses a request")
        }
    }
}

/// Appends a request about a connection. `more` appends further attributes.
fn put_request(
    bytes: &mut Vec<u8>,
    (kind, flags, number): (u16, i32, u32),
    (tuple, protocol): (&Tuple, u8),
    more: impl FnOnce(&mut Vec<u8>),
) {
    let flags = u16::try_from(flags).unwrap_or_default();
    put_message(bytes, (kind, flags, number), |bytes| {
        let family = if tuple.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        bytes.extend([family.to_ne_bytes()[0], 0, 0, 0]);
        put_nested(bytes, TUPLE_ORIG, |bytes| tuple.put(protocol, bytes));
        more(bytes);
    });
}

impl Tuple {
    /// Appends `enum ctattr_tuple`, `ctattr_ip` and `ctattr_l4proto`.
    fn put(&self, protocol: u8, bytes: &mut Vec<u8>) {
        let [source, destination] = [self.source, self.destination];
        put_nested(bytes, TUPLE_IP, |bytes| match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                put(bytes, 1, &source.octets());
                put(bytes, 2, &destination.octets());
            }
            (source, destination) => {
                put(bytes, 3, &mapped(source));
                put(bytes, 4, &mapped(destination));
            }
        });
        put_nested(bytes, TUPLE_PROTO, |bytes| {
            put(bytes, 1, &[protocol]);
            put(bytes, 2, &source.port().to_be_bytes());
            put(bytes, 3, &destination.port().to_be_bytes());
        });
    }
}

impl Tuple {
    /// Reads what [`Self::put`] writes.
    fn read(attributes: &[u8]) -> Option<Self> {
        let (ips, ports) = (attribute(attributes, TUPLE_IP)?, attribute(attributes, TUPLE_PROTO)?);
        let ip = |v4, v6| match (attribute(ips, v4), attribute(ips, v6)) {
            (Some(ip), _) => Some(IpAddr::from(<[u8; 4]>::try_from(ip).ok()?)),
            (None, Some(ip)) => Some(IpAddr::from(<[u8; 16]>::try_from(ip).ok()?)),
            (None, None) => None,
        };
        let port = |kind| Some(u16::from_be_bytes(attribute(ports, kind)?.try_into().ok()?));
        Some(Self {
            source: SocketAddr::new(ip(1, 3)?, port(2)?),
            destination: SocketAddr::new(ip(2, 4)?, port(3)?),
        })
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

/// Reads both directions of a connection. `None` if it has no ports.
fn directions(message: &[u8]) -> Option<Directions> {
    let attributes = message.get(GENERIC..)?;
    let tuple = |kind| Tuple::read(attribute(attributes, kind)?);
    let status = u32::from_be_bytes(attribute(attributes, STATUS)?.try_into().ok()?);
    Some(Directions {
        original: tuple(TUPLE_ORIG)?,
        reply: tuple(TUPLE_REPLY)?,
        answered: status & SEEN_REPLY != 0,
    })
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
