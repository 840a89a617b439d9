//! Measures short TCP connections, one at a time.

use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result, ensure};

use super::placed::{bind_thread, may_spin};
use super::served::{port_of, reached_at};
use super::{Host, Times};
use crate::wait::scaled;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Measures how long connections take that carry a byte each way and are closed by the server, for `duration`.
///
/// The server closes first, as most do: the port of a client is free again at once. Ends on CPUs of their own do not sleep.
pub fn tcp_connections(from: &dyn Host, to: &dyn Host, duration: Duration) -> Result<Times> {
    let listener = to.netns().tcp_listen(to.ip(), port_of(to))?;
    listener.set_nonblocking(true)?;
    let target = reached_at(to, listener.local_addr()?);
    let wait = Wait { spin: may_spin(from, to) };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| bind_thread(to).and_then(|()| serve(&listener, wait, &stop)));
        let client = || bind_thread(from).and_then(|()| from.netns().enter());
        let client = scope.spawn(move || client().and_then(|()| count(target, wait, duration)));
        let times = client.join().unwrap_or_else(|panic| resume_unwind(panic));
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap_or_else(|panic| resume_unwind(panic)).and(times)
    })
    .with_context(|| format!("connections from {} to {}", from.ip(), to.ip()))
}

/// How an end waits for what has not arrived yet.
#[derive(Clone, Copy)]
struct Wait {
    spin: bool,
}

impl Wait {
    /// Repeats what would block.
    fn repeat<T>(self, mut attempt: impl FnMut() -> io::Result<T>, give_up: impl Fn() -> bool) -> Result<T> {
        loop {
            match attempt() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Ok(done?),
            }
            ensure!(!give_up(), "given up");
            if !self.spin {
                thread::yield_now();
            }
        }
    }

    fn read(self, stream: &mut TcpStream) -> Result<usize> {
        let start = Instant::now();
        self.repeat(|| stream.read(&mut [0; 2]), || start.elapsed() > scaled(TIMEOUT))
    }
}

fn serve(listener: &TcpListener, wait: Wait, stop: &AtomicBool) -> Result<()> {
    let stopped = || stop.load(Ordering::Relaxed);
    loop {
        let mut stream = match wait.repeat(|| listener.accept(), stopped) {
            Ok((stream, _)) => stream,
            Err(_) if stopped() => return Ok(()),
            Err(error) => return Err(error).context("accept"),
        };
        stream.set_nonblocking(true)?;
        // The client notices what fails here.
        if wait.read(&mut stream).is_ok_and(|length| length == 1) {
            let _ = stream.write(&[1]);
        }
    }
}

fn count(target: SocketAddr, wait: Wait, duration: Duration) -> Result<Times> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < duration {
        let opened = Instant::now();
        let mut stream = TcpStream::connect_timeout(&target, scaled(TIMEOUT)).context("connect")?;
        stream.set_nonblocking(true)?;
        stream.write_all(&[0]).context("send")?;
        ensure!(wait.read(&mut stream).context("the answer")? == 1, "the server gave no answer");
        ensure!(wait.read(&mut stream).context("the end")? == 0, "the server sent more than it should");
        times.push(opened.elapsed().as_secs_f64());
    }
    Ok(Times { each: times, all: start.elapsed().as_secs_f64() })
}
