//! Sends echo requests to many nodes at once, and waits for their answers until a deadline.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::echo::{self, Token};
use super::socket::EchoSocket;
use crate::random;

/// So many bytes are sent before a pause.
const BURST: usize = 16 << 10;
/// The pause.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest packet that is received.
const LONGEST: usize = 1 << 16;

/// A socket by address family (whether it is IPv6) and source.
type Place = (bool, Option<IpAddr>);

/// A request.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The number of the node that it is for.
    pub target: usize,
    /// Whether it goes to the public address.
    pub is_underlay: bool,
    /// The length of its IP packet in bytes.
    pub length: u16,
    /// How long the answer took; `None` if there is none so far.
    pub answer: Option<Duration>,
    /// When it was sent; `None` if it could not be.
    at: Option<Instant>,
    to: IpAddr,
}

/// A request to send.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The number of the node that it is for.
    pub target: usize,
    /// Whether it goes to the public address.
    pub is_underlay: bool,
    /// Where it comes from; `None` for the address that the kernel chooses.
    pub from: Option<IpAddr>,
    /// Where it goes.
    pub to: IpAddr,
    /// The length of its IP packet in bytes, see [`small`](super::small).
    pub length: u16,
}

/// Everything that was sent.
#[derive(Debug)]
pub struct Prober {
    sockets: BTreeMap<Place, EchoSocket>,
    run: u64,
    sent: Vec<Sent>,
    /// Where the present round begins, and how many of its answers may still come.
    round: usize,
    open: usize,
    deadline: Instant,
    in_burst: usize,
}

impl Prober {
    /// Returns a prober that ends at a deadline.
    ///
    /// # Errors
    /// The kernel has no source of random numbers.
    pub fn new(deadline: Instant) -> Result<Self> {
        let run = random::number()?;
        Ok(Self { sockets: BTreeMap::new(), run, sent: Vec::new(), round: 0, open: 0, deadline, in_burst: 0 })
    }

    /// Begins a round: earlier requests are not waited for any longer.
    pub fn begin(&mut self) {
        (self.round, self.open) = (self.sent.len(), 0);
    }

    /// Returns whether there is no time left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Returns what was sent in all rounds.
    #[must_use]
    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }

    /// Returns what was sent in this round.
    #[must_use]
    pub fn sent_now(&self) -> &[Sent] {
        &self.sent[self.round..]
    }

    /// Sends a request, unless there is no time left. Pauses before it if much was sent just now.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn send(&mut self, Request { target, is_underlay, from, to, length }: Request) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if self.in_burst > BURST {
            self.in_burst = 0;
            sleep(PAUSE);
            self.receive()?;
        }
        self.in_burst += usize::from(length);
        let v6 = to.is_ipv6();
        let socket = match self.sockets.entry((v6, from)) {
            Entry::Occupied(socket) => socket.into_mut(),
            Entry::Vacant(place) => place.insert(EchoSocket::open(v6, from)?),
        };
        let token = Token { run: self.run, number: self.sent.len() as u64 };
        let at = Instant::now();
        // What this node has no room for says nothing about the way to others.
        let Some(is_sent) = socket.send(&echo::request(v6, token, length), to) else { return Ok(()) };
        self.open += usize::from(is_sent);
        self.sent.push(Sent { target, is_underlay, length, answer: None, at: is_sent.then_some(at), to });
        Ok(())
    }

    /// Waits until each request of this round is answered, this time is over, or the deadline.
    ///
    /// # Errors
    /// A socket is broken.
    pub fn wait(&mut self, patience: Duration) -> Result<()> {
        let end = self.deadline.min(Instant::now() + patience);
        loop {
            self.receive()?;
            let left = end.saturating_duration_since(Instant::now());
            if self.open == 0 || left.is_zero() {
                return Ok(());
            }
            let mut waiting: Vec<_> =
                self.sockets.values().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            let limit = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut waiting, limit) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the answers that are there.
    fn receive(&mut self) -> Result<()> {
        let mut buffer = vec![0; LONGEST];
        let Self { sockets, sent, run, round, open, .. } = self;
        for ((v6, _), socket) in sockets.iter() {
            while let Some((length, by)) = socket.receive(&mut buffer)? {
                let Some(token) = echo::reply(*v6, &buffer[..length]).filter(|token| token.run == *run)
                else {
                    continue;
                };
                let Ok(number) = usize::try_from(token.number) else { continue };
                let known =
                    sent.get_mut(number).filter(|request| request.to == by && request.answer.is_none());
                if let Some((request, at)) = known.and_then(|request| request.at.map(|at| (request, at))) {
                    request.answer = Some(at.elapsed());
                    *open -= usize::from(number >= *round);
                }
            }
        }
        Ok(())
    }
}
