//! A kernel that refuses commands of BPF, as older or hardened ones do, by a seccomp filter.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// A command of BPF that fails.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Its number in `enum bpf_cmd` (linux/bpf.h).
    command: u32,
    error: i32,
}

impl Refusal {
    /// No BPF links are created, as kernels before 6.6 refuse a tcx link.
    pub const LINKS: Self = Self { command: BPF_LINK_CREATE, error: libc::EINVAL };
    /// No programs are loaded.
    pub const LOADING: Self = Self { command: BPF_PROG_LOAD, error: libc::EPERM };
    /// No programs are attached by links.
    pub const ATTACHING: Self = Self { command: BPF_LINK_CREATE, error: libc::EPERM };
    /// Nobody is told what is attached where.
    pub const QUERYING: Self = Self { command: BPF_PROG_QUERY, error: libc::EPERM };
    /// No maps are created.
    pub const MAPS: Self = Self { command: BPF_MAP_CREATE, error: libc::EPERM };
    /// Pins cannot be opened.
    pub const PINS: Self = Self { command: BPF_OBJ_GET, error: libc::EPERM };
}

const BPF_MAP_CREATE: u32 = 0;
const BPF_PROG_LOAD: u32 = 5;
const BPF_OBJ_GET: u32 = 7;
const BPF_PROG_QUERY: u32 = 16;
const BPF_LINK_CREATE: u32 = 28;
/// Offsets in `struct seccomp_data` (linux/seccomp.h): system call number, and lower half of the first argument.
const NUMBER: u32 = 0;
const ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

/// Makes what the command starts, and its children, be refused this.
pub(super) fn refuse(command: &mut Command, refusal: Refusal) {
    // SAFETY: between fork and exec only a bare system call is made, which allocates nothing.
    unsafe { command.pre_exec(move || install(refusal)) };
}

fn install(Refusal { command, error }: Refusal) -> io::Result<()> {
    let mut filter = [
        instruction(BPF_LD | BPF_W | BPF_ABS, NUMBER, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_bpf as u32, 3),
        instruction(BPF_LD | BPF_W | BPF_ABS, ARGUMENT, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, command, 1),
        instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | error.cast_unsigned(), 0),
        instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: program and filter live through the call. Root needs no no_new_privs for it.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns one instruction. A failed comparison skips the next `jump_if_false` instructions.
const fn instruction(code: u32, k: u32, jump_if_false: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: jump_if_false, k }
}
