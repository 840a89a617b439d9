//! Carries connections from a cluster's management network to the API server, and fails as networks fail.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::netns::NetNs;

const BUFFER: usize = 64 << 10;

/// A forwarder of TCP connections. Dropping it ends them.
#[derive(Debug)]
pub struct Forwarder {
    listener: TcpListener,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    /// Both ends of each connection, to close them.
    ends: Vec<TcpStream>,
    /// Connections accepted so far.
    accepted: usize,
    /// When the first bytes from the server came, since this was forgotten.
    answered: Option<Instant>,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// What happens to connections and bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    #[default]
    Open,
    Closed,
    Stalled,
}

impl Forwarder {
    /// Listens in a namespace and forwards to an address of this process's own namespace.
    pub(super) fn start(netns: &NetNs, address: SocketAddr, target: SocketAddr) -> Result<Self> {
        let bind = || TcpListener::bind(address).with_context(|| format!("listen on {address}"));
        let listener = netns.run(bind)?;
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let (socket, forwarding) = (listener.try_clone()?, Arc::clone(&shared));
        let acceptor = Some(thread::spawn(move || forwarding.accept(&socket)));
        Ok(Self { listener, shared, acceptor })
    }

    /// Closes all connections, and each new one at once, until [`Forwarder::open`].
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.mode = Mode::Closed;
        close(&mut state);
        self.shared.changed.notify_all();
    }

    /// Delivers nothing any more, and closes nothing, until [`Forwarder::open`].
    pub fn stall(&self) {
        self.shared.lock().mode = Mode::Stalled;
    }

    /// Closes all connections once. New ones are carried.
    pub fn reset(&self) {
        close(&mut self.shared.lock());
    }

    /// Carries connections again, and what was held back.
    pub fn open(&self) {
        self.shared.lock().mode = Mode::Open;
        self.shared.changed.notify_all();
    }

    /// Forgets when bytes came from the server: the next ones are the first.
    pub fn forget_answer(&self) {
        self.shared.lock().answered = None;
    }

    /// Returns when the first bytes came from the server since [`Forwarder::forget_answer`].
    pub fn answered(&self) -> Option<Instant> {
        self.shared.lock().answered
    }

    /// Returns how many connections there have been.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.cut();
        // SAFETY: the descriptor is this value's own and open. On Linux this ends a pending accept.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if self.acceptor.take().is_some_and(|acceptor| acceptor.join().is_err()) {
            eprintln!("test bed: the forwarder's thread panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((client, _)) => drop(self.connect(client)),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    /// Connects a client to the server. A server that refuses closes the connection.
    fn connect(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let mut state = self.lock();
        state.accepted += 1;
        if state.mode == Mode::Closed {
            return Ok(());
        }
        drop(state);
        let server = TcpStream::connect(self.target)?;
        let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
        self.lock().ends.extend([client.try_clone()?, server.try_clone()?]);
        for (way, from, to) in [(Way::ToServer, from_client, server), (Way::ToClient, from_server, client)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.copy(way, from, to));
        }
        Ok(())
    }

    /// Copies until one side ends, then ends both.
    fn copy(&self, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if way == Way::ToClient {
                self.lock().answered.get_or_insert_with(Instant::now);
            }
            self.wait_while_stalled();
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        self.wait_while_stalled();
        for end in [from, to] {
            // An end that is closed already is fine.
            drop(end.shutdown(Shutdown::Both));
        }
    }

    fn wait_while_stalled(&self) {
        let state = self.lock();
        let stalled = |state: &mut State| state.mode == Mode::Stalled;
        drop(self.changed.wait_while(state, stalled).unwrap_or_else(PoisonError::into_inner));
    }
}

fn close(state: &mut State) {
    for end in state.ends.drain(..) {
        // An end that is closed already is fine.
        drop(end.shutdown(Shutdown::Both));
    }
}
