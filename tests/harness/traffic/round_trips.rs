//! Measures round trips of a small datagram, one at a time.

use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Host;
use super::placed::bind_thread;
use super::served::{port_of, reached_at};

const POLL: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the round trips per second of one-byte datagrams during `duration`. Fails if one is lost.
pub fn udp_round_trips(from: &dyn Host, to: &dyn Host, duration: Duration) -> Result<f64> {
    let server = to.netns().udp_bind(to.ip(), port_of(to))?;
    server.set_read_timeout(Some(POLL))?;
    let client = from.netns().udp_bind(from.ip(), 0)?;
    client.set_read_timeout(Some(TIMEOUT))?;
    client.connect(reached_at(to, server.local_addr()?))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let echo = scope.spawn(|| bind_thread(to).map(|()| echo(&server, &stop)));
        let client = scope.spawn(|| bind_thread(from).and_then(|()| count(&client, duration)));
        let rate = client.join().unwrap_or_else(|panic| resume_unwind(panic));
        stop.store(true, Ordering::Relaxed);
        echo.join().unwrap_or_else(|panic| resume_unwind(panic)).and(rate)
    })
    .with_context(|| format!("round trips from {} to {}", from.ip(), to.ip()))
}

fn echo(server: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, client)) = server.recv_from(&mut buffer) {
            // The client notices a lost answer.
            let _ = server.send_to(&buffer[..length], client);
        }
    }
}

fn count(client: &UdpSocket, duration: Duration) -> Result<f64> {
    let (start, mut trips, mut buffer) = (Instant::now(), 0u32, [0; 16]);
    while start.elapsed() < duration {
        client.send(&[trips as u8])?;
        client.recv(&mut buffer).with_context(|| format!("round trip {trips}"))?;
        ensure!(buffer[0] == trips as u8, "round trip {trips}: a wrong answer");
        trips += 1;
    }
    Ok(f64::from(trips) / start.elapsed().as_secs_f64())
}
