//! Simulates an older kernel with a seccomp filter.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// A command in `enum bpf_cmd` (linux/bpf.h).
const BPF_LINK_CREATE: u32 = 28;
/// Offsets in `struct seccomp_data` (linux/seccomp.h): system call number, and lower half of the first argument.
const NUMBER: u32 = 0;
const ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

/// Makes the creation of BPF links fail with EINVAL, as kernels before 6.6 refuse a tcx link.
pub(super) fn without_tcx(command: &mut Command) {
    // SAFETY: between fork and exec only a bare system call is made, which allocates nothing.
    unsafe { command.pre_exec(refuse_links) };
}

fn refuse_links() -> io::Result<()> {
    let mut filter = [
        instruction(BPF_LD | BPF_W | BPF_ABS, NUMBER, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_bpf as u32, 3),
        instruction(BPF_LD | BPF_W | BPF_ABS, ARGUMENT, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, BPF_LINK_CREATE, 1),
        instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32, 0),
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
