//! Links of programs to interfaces, as XDP has them (Linux 5.9). `aya` falls back to netlink where they are refused, and
//! what is attached so cannot be pinned.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::syscall::bpf;

/// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;

/// `union bpf_attr` as `BPF_OBJ_PIN` and `BPF_OBJ_GET` read it.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct Question {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info` of an XDP link.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    program: u32,
    reserved: u32,
    interface: u32,
}

/// What attaches an XDP program to an interface. It ends with its last file and pin.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Attaches the program; `flags` say in which mode (linux/if_link.h: `XDP_FLAGS_`...).
    pub(super) fn create(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<Self> {
        let mut attributes = [program.as_raw_fd().cast_unsigned(), interface, BPF_XDP, flags];
        open(bpf(BPF_LINK_CREATE, &mut attributes)?)
    }

    /// The link that is pinned here.
    pub(super) fn pinned(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        open(bpf(BPF_OBJ_GET, &mut Object { path: path.as_ptr() as u64, fd: 0, flags: 0 })?)
    }

    /// Has it outlive us.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        bpf(BPF_OBJ_PIN, &mut Object { path: path.as_ptr() as u64, fd: self.fd(), flags: 0 }).map(drop)
    }

    /// Puts another program in the place of the one that it attaches: no packet is missed.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        bpf(BPF_LINK_UPDATE, &mut [self.fd(), program.as_raw_fd().cast_unsigned(), 0, 0]).map(drop)
    }

    /// Takes the program off, whoever else holds the link. When this returns, it runs no more.
    pub(super) fn detach(&self) -> io::Result<()> {
        bpf(BPF_LINK_DETACH, &mut [self.fd()]).map(drop)
    }

    /// Index of the interface, 0 once the program has been taken off or the interface is gone, and number of the program.
    pub(super) fn place(&self) -> io::Result<(u32, u32)> {
        let mut info = Info::default();
        let length = size_of::<Info>() as u32;
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut Question { fd: self.fd(), length, info: (&raw mut info) as u64 })?;
        Ok((info.interface, info.program))
    }

    fn fd(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

fn open(fd: i32) -> io::Result<Link> {
    // SAFETY: the kernel has just opened it for us.
    Ok(Link(unsafe { OwnedFd::from_raw_fd(fd) }))
}
