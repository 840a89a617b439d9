//! The TUN device. Packets that the kernel routes into it are read from its file; packets written to the file arrive on
//! it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};

/// The name that flanneld's first TUN device gets.
pub(super) const NAME: &str = "flannel0";
const CONTROL: &str = "/dev/net/tun";

/// Creates the device, for IP packets without TUN's own header. The kernel deletes it when its file is closed.
pub(super) fn open() -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CONTROL);
    let file = file.with_context(|| format!("opening {CONTROL} (is the kernel module tun loaded?)"))?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if made < 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!("making the TUN device {NAME} (does another program use it, such as flanneld?)")
        });
    }
    Ok(file)
}
