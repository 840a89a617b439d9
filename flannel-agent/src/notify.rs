//! What systemd is told (`Type=notify`, sd_notify(3)). Nothing here can fail or wait: not under systemd there is nobody
//! to be told, and who does not listen misses something.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// The node has its subnet, and the subnet file says so.
pub fn ready() {
    tell("READY=1");
}

/// How it stands, for `systemctl status`: one line.
pub fn status(line: &str) {
    tell(&format!("STATUS={line}"));
}

/// The agent ends on request.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=stopping");
}

fn tell(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name, state) {
        debug!("systemd is not told {state:?}: {error}");
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A full socket would hold up the whole agent.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_listen_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let sent = (0..10_000).take_while(|_| send(path.as_os_str(), "STATUS=x").is_ok()).count();
        assert!(sent < 10_000, "the socket never got full");
        let mut heard = [0; 20];
        assert_eq!(socket.recv(&mut heard).unwrap(), "STATUS=x".len());
        assert!(send(path.as_os_str(), "STATUS=y").is_ok());
    }
}
