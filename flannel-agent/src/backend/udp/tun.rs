//! The TUN device: what the kernel routes into it is read from a file, and what is written there arrives on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};

/// What flanneld's is called, where it is the first.
pub(super) const NAME: &str = "flannel0";
const CONTROL: &str = "/dev/net/tun";

/// Makes the device, for IP packets without a header of TUN's own. It goes with its last file.
pub(super) fn open() -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CONTROL);
    let file = file.with_context(|| format!("opening {CONTROL} (is the kernel module tun loaded?)"))?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if made < 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!("making the TUN device {NAME} (does another program have it, such as flanneld?)")
        });
    }
    Ok(file)
}
