//! The driver of an interface, by ethtool's ioctl. The ioctl uses the caller's network namespace, which sysfs
//! may not show.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tracing::debug;

/// linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// The driver of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// Its name; empty if the kernel does not tell.
    pub name: String,
    /// Whether the interface is a device on a bus, which includes the network cards of virtual machines.
    pub hardware: bool,
}

impl Driver {
    /// Reads the driver of the interface with this name.
    #[must_use]
    pub fn of(interface: &str) -> Self {
        match ask(interface) {
            Ok(info) => Self { name: text(&info.driver), hardware: info.bus[0] != 0 },
            Err(error) => {
                debug!(interface, %error, "the kernel does not name the driver");
                Self::default()
            }
        }
    }
}

fn ask(interface: &str) -> io::Result<DriverInfo> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeroes are a valid ifreq and a valid ethtool_drvinfo.
    let (mut request, mut info): (libc::ifreq, DriverInfo) = unsafe { std::mem::zeroed() };
    info.command = ETHTOOL_GDRVINFO;
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the ioctl reads the request and writes the info that it points to; both live through the call.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if asked < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_has_no_driver() {
        assert_eq!(Driver::of("no such one"), Driver::default());
        assert!(!Driver::of("lo").hardware);
    }
}
