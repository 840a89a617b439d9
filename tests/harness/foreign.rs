//! BPF programs of others: a few instructions that drop packets, attached past the agent.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use crate::netns::NetNs;

/// include/uapi/linux/bpf.h: `enum bpf_cmd`, `enum bpf_prog_type`, `enum bpf_attach_type`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const AT_XDP: u32 = 37;
const AT_TCX_INGRESS: u32 = 46;
const AT_TCX_EGRESS: u32 = 47;
/// linux/if_link.h: `XDP_FLAGS_SKB_MODE`, `XDP_FLAGS_DRV_MODE`.
const XDP_GENERIC: u32 = 1 << 1;
const XDP_NATIVE: u32 = 1 << 2;

/// Where and how a program that drops is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// XDP in the driver: drops everything.
    NativeXdp,
    /// XDP in the stack: drops everything.
    GenericXdp,
    /// tcx (Linux 6.6) for received packets, last in its list: drops IPv4.
    TcxIngress,
    /// tcx for sent packets.
    TcxEgress,
}

/// A program that drops packets. Closing its link detaches it.
#[derive(Debug)]
pub struct ForeignProgram {
    _link: OwnedFd,
}

impl ForeignProgram {
    /// Attaches a program that drops to an interface of a namespace.
    pub fn attach(netns: &NetNs, interface: &str, how: Drop) -> Result<Self> {
        netns
            .run(|| {
                let index = nix::net::if_::if_nametoindex(interface)?;
                let (program, at, flags) = match how {
                    Drop::NativeXdp => (load(XDP, &DROP_ALL)?, AT_XDP, XDP_NATIVE),
                    Drop::GenericXdp => (load(XDP, &DROP_ALL)?, AT_XDP, XDP_GENERIC),
                    Drop::TcxIngress => (load(SCHED_CLS, &DROP_IPV4)?, AT_TCX_INGRESS, 0),
                    Drop::TcxEgress => (load(SCHED_CLS, &DROP_IPV4)?, AT_TCX_EGRESS, 0),
                };
                let mut attributes = [program.as_raw_fd().cast_unsigned(), index, at, flags, 0, 0, 0, 0];
                Ok(Self { _link: bpf(BPF_LINK_CREATE, &mut attributes)? })
            })
            .with_context(|| format!("attach a program that drops to {interface}: {how:?}"))
    }
}

/// One instruction: opcode, registers, offset and constant as the kernel's `struct bpf_insn` has them.
type Instruction = u64;

const fn instruction(opcode: u8, registers: u8, offset: i16, constant: i32) -> Instruction {
    let [o0, o1] = offset.to_ne_bytes();
    let [c0, c1, c2, c3] = constant.to_ne_bytes();
    u64::from_ne_bytes([opcode, registers, o0, o1, c0, c1, c2, c3])
}

const EXIT: Instruction = instruction(0x95, 0, 0, 0);
/// `r0 = constant`.
const fn result(constant: i32) -> Instruction {
    instruction(0xb7, 0, 0, constant)
}

/// Ends with `XDP_DROP`.
const DROP_ALL: [Instruction; 2] = [result(1), EXIT];
/// Ends with `TC_ACT_SHOT` for IPv4, with `TCX_NEXT` for other packets. `protocol` is the field at 16 of `__sk_buff`.
const DROP_IPV4: [Instruction; 5] = [
    instruction(0x61, 0x12, 16, 0),
    result(-1),
    instruction(0x55, 0x02, 1, 0x0800_u16.to_be() as i32),
    result(2),
    EXIT,
];

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instructions: u32,
    first: u64,
    license: u64,
    rest: [u32; 6],
    name: [u8; 16],
}

fn load(kind: u32, instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut attributes = LoadAttributes {
        kind,
        instructions: instructions.len().try_into()?,
        first: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 6],
        name: *b"of_another_one\0\0",
    };
    bpf(BPF_PROG_LOAD, &mut attributes).context("load a program")
}

/// Performs a command of bpf(2) that opens a file descriptor.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are those of the command, and what they point to lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
