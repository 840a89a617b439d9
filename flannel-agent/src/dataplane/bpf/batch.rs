//! Many entries of a map with one system call, which `aya` does not have (Linux 5.6; for LPM tries 5.13).

use std::os::fd::{AsRawFd as _, OwnedFd};

use aya::Pod;

use super::syscall::bpf;

/// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// `union bpf_attr` as these two commands read it.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// In: how many there are. Out: how many were done.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes the entries in order and returns how many were written.
pub(super) fn update<K: Pod, V: Pod>(map: &OwnedFd, keys: &[K], values: &[V]) -> usize {
    let count = keys.len().min(values.len());
    run(BPF_MAP_UPDATE_BATCH, map, &keys[..count], values.as_ptr() as u64)
}

/// Removes the entries in order and returns how many were removed.
pub(super) fn delete<K: Pod>(map: &OwnedFd, keys: &[K]) -> usize {
    run(BPF_MAP_DELETE_BATCH, map, keys, 0)
}

fn run<K: Pod>(command: libc::c_int, map: &OwnedFd, keys: &[K], values: u64) -> usize {
    let Ok(count) = u32::try_from(keys.len()) else { return 0 };
    if count == 0 {
        return 0;
    }
    let map_fd = map.as_raw_fd().cast_unsigned();
    let mut batch = Batch { keys: keys.as_ptr() as u64, values, count, map_fd, ..Batch::default() };
    // `keys` and `values` point to at least `count` entries of plain data, which the kernel only reads.
    if bpf(command, &mut batch).is_ok() {
        return keys.len();
    }
    // Where the kernel refuses before the first entry it does not touch the count.
    if batch.count < count { batch.count as usize } else { 0 }
}
