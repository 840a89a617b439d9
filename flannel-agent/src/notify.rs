//! Notifies systemd of the agent's state (`Type=notify`, sd_notify(3)). Does nothing when not started by systemd. Never
//! blocks: a message that cannot be sent at once is lost.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// Reports that the node has its subnet and has written the subnet file.
pub fn ready() {
    notify("READY=1");
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
    if let Err(error) = send(&name, state) {
        debug!("sending {state:?} to systemd: {error}");
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A full socket would block the whole agent.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_socket_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let sent = (0..10_000).take_while(|_| send(path.as_os_str(), "STATUS=x").is_ok()).count();
        assert!(sent < 10_000, "the socket never became full");
        let mut received = [0; 20];
        assert_eq!(socket.recv(&mut received).unwrap(), "STATUS=x".len());
        assert!(send(path.as_os_str(), "STATUS=y").is_ok());
    }
}
