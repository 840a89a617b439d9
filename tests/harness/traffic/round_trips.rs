//! Measures round trips of a small datagram, one at a time.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::placed::{bind_thread, may_spin};
use super::served::{port_of, reached_at};
use super::uninterrupted;
use super::{Host, Times};
use crate::wait::scaled;

const POLL: Duration = Duration::from_millis(50);
/// Long, since a machine with other load may keep an end that does not sleep from its CPU for a second.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Measures how long a one-byte datagram takes to the other end and back, for `duration`. Fails if one is lost.
///
/// Ends on CPUs of their own do not sleep: waking a CPU, above all of a virtual machine, takes longer than the way from one pod to
/// another, and varies.
pub fn udp_round_trips(from: &dyn Host, to: &dyn Host, duration: Duration) -> Result<Times> {
    let server = to.netns().udp_bind(to.ip(), port_of(to))?;
    let client = from.netns().udp_bind(from.ip(), 0)?;
    client.connect(reached_at(to, server.local_addr()?))?;
    let spin = may_spin(from, to);
    for socket in [&server, &client] {
        socket.set_nonblocking(spin)?;
        socket.set_read_timeout(Some(POLL))?;
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let echo = scope.spawn(|| bind_thread(to).and_then(|()| echo(&server, &stop)));
        let client = scope.spawn(|| bind_thread(from).and_then(|()| count(&client, duration)));
        let trips = client.join().unwrap_or_else(|panic| resume_unwind(panic));
        stop.store(true, Ordering::Relaxed);
        echo.join().unwrap_or_else(|panic| resume_unwind(panic)).and(trips)
    })
    .with_context(|| format!("round trips from {} to {}", from.ip(), to.ip()))
}

fn echo(server: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        if let Some((length, client)) = receive(server, &mut buffer)? {
            // The client notices a lost answer.
            let _ = server.send_to(&buffer[..length], client);
        }
    }
    Ok(())
}

fn count(client: &UdpSocket, duration: Duration) -> Result<Times> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < duration {
        let number = times.len() as u8;
        let sent = Instant::now();
        client.send(&[number])?;
        let answer = answer(client, sent).with_context(|| format!("round trip {}", times.len()))?;
        times.push(sent.elapsed().as_secs_f64());
        ensure!(answer == number, "round trip {}: a wrong answer", times.len());
    }
    Ok(Times { each: times, all: start.elapsed().as_secs_f64() })
}

fn answer(client: &UdpSocket, sent: Instant) -> Result<u8> {
    let mut buffer = [0; 16];
    while sent.elapsed() < scaled(TIMEOUT) {
        if receive(client, &mut buffer)?.is_some() {
            return Ok(buffer[0]);
        }
    }
    bail!("no answer within {:?}", scaled(TIMEOUT))
}

/// Receives what has arrived, or arrives within the socket's timeout if it blocks.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
    match uninterrupted(|| socket.recv_from(buffer)) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        received => received.map(Some),
    }
}
