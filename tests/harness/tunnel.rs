//! TUN and TAP devices of two namespaces, joined by threads that pass packets on, as the daemon of a VPN does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::NetNs;

const CONTROL: &str = "/dev/net/tun";
/// How often a thread looks whether it is to end, in milliseconds.
const LOOK: u16 = 100;
const LARGEST: usize = 65_535;

/// What such a device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// IP packets: TUN.
    Packets,
    /// Ethernet frames: TAP.
    Frames,
}

/// Two devices. They vanish when it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Makes a device of this name in both namespaces.
    pub fn join(name: &str, carries: Carries, [one, other]: [&NetNs; 2]) -> Result<Self> {
        let open = |netns: &NetNs| netns.run(|| open(name, carries)).map(Arc::new);
        let (one, other) = (open(one)?, open(other)?);
        let stopped = Arc::new(AtomicBool::new(false));
        let pass = |from: &Arc<File>, to: &Arc<File>| {
            let (from, to, stopped) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stopped));
            thread::spawn(move || pass(&from, &to, &stopped))
        };
        let threads = vec![pass(&one, &other), pass(&other, &one)];
        Ok(Self { stopped, threads })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            _ = thread.join();
        }
    }
}

/// Makes a device in the current namespace.
fn open(name: &str, carries: Carries) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CONTROL);
    let file = file.with_context(|| format!("open {CONTROL}"))?;
    let kind = match carries {
        Carries::Packets => libc::IFF_TUN,
        Carries::Frames => libc::IFF_TAP,
    };
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if made < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("make the device {name}"));
    }
    Ok(file)
}

/// Passes packets on until it is stopped. What cannot be written is lost, as on a wire: the other device may be down.
fn pass(mut from: &File, mut to: &File, stopped: &AtomicBool) {
    let mut packet = vec![0; LARGEST];
    while !stopped.load(Ordering::Relaxed) {
        match from.read(&mut packet) {
            Ok(length) => _ = to.write(&packet[..length]),
            Err(_) => {
                let mut wait = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                _ = poll(&mut wait, PollTimeout::from(LOOK));
            }
        }
    }
}
