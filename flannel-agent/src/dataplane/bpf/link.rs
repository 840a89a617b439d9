//! Links of XDP programs to interfaces (Linux 5.9). `aya` falls back to netlink where links are refused, and what is
//! attached by netlink cannot be pinned.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::syscall::{bpf, bpf_open};

/// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;

/// `union bpf_attr` as `BPF_OBJ_PIN` and `BPF_OBJ_GET` read it.
#[repr(C)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info` of an XDP link. That of a tcx link begins alike.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    reserved: u32,
    interface: u32,
}

/// A link of an XDP program to an interface. It ends when its last file descriptor and its last pin are gone.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Attaches the program. `flags`: the mode (linux/if_link.h: `XDP_FLAGS_`...).
    pub(super) fn create(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<Self> {
        let mut attributes = [program.as_raw_fd().cast_unsigned(), interface, BPF_XDP, flags];
        // SAFETY: the command opens a link, and reads program, interface, type and flags from four numbers.
        unsafe { bpf_open(BPF_LINK_CREATE, &mut attributes) }.map(Self)
    }

    /// Opens the link that is pinned at this path.
    pub(super) fn pinned(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = PinAttributes { path: path.as_ptr() as u64, fd: 0, flags: 0 };
        // SAFETY: the command opens what is pinned at the path, a string that ends with NUL and lives through the call.
        unsafe { bpf_open(BPF_OBJ_GET, &mut attributes) }.map(Self)
    }

    /// Opens the link with this ID, which takes `CAP_SYS_ADMIN`.
    pub(super) fn by_id(id: u32) -> io::Result<Self> {
        // SAFETY: the command opens a link, and reads its ID from one number.
        unsafe { bpf_open(BPF_LINK_GET_FD_BY_ID, &mut [id]) }.map(Self)
    }

    /// Pins the link, so that it outlives the agent.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = PinAttributes { path: path.as_ptr() as u64, fd: self.fd(), flags: 0 };
        // SAFETY: the command reads the path, a string that ends with NUL and lives through the call.
        unsafe { bpf(BPF_OBJ_PIN, &mut attributes) }.map(drop)
    }

    /// Replaces the attached program. No packet is missed.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = [self.fd(), program.as_raw_fd().cast_unsigned(), 0, 0];
        // SAFETY: the command reads link, program, flags and the expected program from four numbers.
        unsafe { bpf(BPF_LINK_UPDATE, &mut attributes) }.map(drop)
    }

    /// Detaches the program, even if another process holds the link. When this returns, the program runs no more.
    pub(super) fn detach(&self) -> io::Result<()> {
        // SAFETY: the command reads the link from one number.
        unsafe { bpf(BPF_LINK_DETACH, &mut [self.fd()]) }.map(drop)
    }

    /// Returns the index of the interface, 0 once the program is detached or the interface is gone, and the ID of the
    /// program.
    pub(super) fn attachment(&self) -> io::Result<(u32, u32)> {
        let mut info = LinkInfo::default();
        let length = size_of::<LinkInfo>() as u32;
        let mut attributes = InfoAttributes { fd: self.fd(), length, info: (&raw mut info) as u64 };
        // SAFETY: the command writes at most `length` bytes to `info`, which lives through the call and takes any number.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
        Ok((info.interface, info.program))
    }

    fn fd(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

/// Returns whether there is no pin at a path: the error of [`Link::pinned`]. Its folder may be gone with the whole BPF
/// filesystem.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
