//! Notifies systemd of the agent's state (`Type=notify`, sd_notify(3)). Does nothing when not started by systemd. Never
//! blocks: a message that cannot be sent at once is lost, but for the one that the agent is ready.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tracing::debug;

/// Reports that the node has its subnet and has written the subnet file. If the socket is full, a thread waits for room: systemd would
/// end an agent that is never ready. Later calls do nothing: there would be a waiting thread for each.
pub fn ready() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if let Some(name) = env::var_os("NOTIFY_SOCKET")
        && !REPORTED.swap(true, Ordering::Relaxed)
    {
        send_surely(&name, "READY=1");
    }
}

/// Sets the line of text that `systemctl status` shows.
pub fn status(line: &str) {
    notify(&format!("STATUS={line}"));
}

/// Reports that the agent ends because of a signal.
pub fn stopping() {
    notify("STOPPING=1\nSTATUS=stopping");
}

fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name, state, false) {
        debug!("sending {state:?} to systemd: {error}");
    }
}

/// Sends a message that must not get lost: at once, or by a thread that waits until the socket has room.
fn send_surely(name: &OsStr, state: &'static str) {
    let sent = match send(name, state, false) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let name = name.to_owned();
            thread::Builder::new().name("notify".to_owned()).spawn(move || send(&name, state, true)).map(drop)
        }
        sent => sent,
    };
    if let Err(error) = sent {
        debug!("sending {state:?} to systemd: {error}");
    }
}

/// `wait`: until the socket has room. A full socket would block the whole agent.
fn send(name: &OsStr, state: &str, wait: bool) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(!wait)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    const NAME: &str = "notify";

    /// Makes a socket in a folder of its own and fills it. Returns how many messages it has.
    fn full_socket() -> (TempDir, UnixDatagram, usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let socket = UnixDatagram::bind(&path).unwrap();
        let sent = (0..10_000).take_while(|_| send(path.as_os_str(), "STATUS=x", false).is_ok()).count();
        assert!(sent < 10_000, "the socket never became full");
        (dir, socket, sent)
    }

    #[test]
    fn a_full_socket_does_not_block() {
        let (dir, socket, _) = full_socket();
        let name = dir.path().join(NAME);
        let name = name.as_os_str();
        let mut received = [0; 20];
        assert_eq!(socket.recv(&mut received).unwrap(), "STATUS=x".len());
        assert!(send(name, "STATUS=y", false).is_ok());
    }

    #[test]
    fn a_full_socket_gets_the_message_that_must_not_get_lost() {
        let (dir, socket, sent) = full_socket();
        send_surely(dir.path().join(NAME).as_os_str(), "READY=1");
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut received = [0; 20];
        for number in 0..sent {
            let length = socket.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"STATUS=x", "message {number}");
        }
        let length = socket.recv(&mut received).unwrap();
        assert_eq!(&received[..length], b"READY=1");
    }
}
