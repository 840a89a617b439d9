//! Many entries of a map with one system call, which `aya` does not have (Linux 5.6; for LPM tries 5.13).

use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use aya::maps::MapData;

use super::syscall::bpf;

/// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// `union bpf_attr` as these two commands read it.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// In: the number of entries. Out: how many were done.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Batch operations of a map with these keys and values.
pub(super) struct Batch<K, V> {
    map: OwnedFd,
    entry: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Batch<K, V> {
    /// Checks that the map's keys and values have the size of these types.
    pub(super) fn new(map: &MapData) -> Result<Self> {
        let info = map.info().context("reading the sizes of keys and values")?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        ensure!(
            sizes == (size_of::<K>(), size_of::<V>()),
            "the map has keys and values of {} and {} bytes",
            sizes.0,
            sizes.1
        );
        let map = map.fd().as_fd().try_clone_to_owned().context("duplicating a file descriptor")?;
        Ok(Self { map, entry: PhantomData })
    }

    /// Writes the entries in order. Returns how many were written.
    pub(super) fn update(&self, keys: &[K], values: &[V]) -> usize {
        let count = keys.len().min(values.len());
        self.run(BPF_MAP_UPDATE_BATCH, &keys[..count], &values[..count])
    }

    /// Removes the entries in order. Returns how many were removed.
    pub(super) fn delete(&self, keys: &[K]) -> usize {
        self.run(BPF_MAP_DELETE_BATCH, keys, &[])
    }

    fn run(&self, command: libc::c_int, keys: &[K], values: &[V]) -> usize {
        let Ok(count) = u32::try_from(keys.len()) else { return 0 };
        if count == 0 {
            return 0;
        }
        let mut batch = Attributes {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count,
            map_fd: self.map.as_raw_fd().cast_unsigned(),
            ..Attributes::default()
        };
        // SAFETY: the attributes are laid out for both commands. The kernel reads `count` keys and, in an update, `count`
        // values. `update` passes as many of both, and `new` has compared their sizes with the map's.
        if unsafe { bpf(command, &mut batch) }.is_ok() {
            return keys.len();
        }
        // The kernel leaves `count` as it is if it refuses before the first entry.
        if batch.count < count { batch.count as usize } else { 0 }
    }
}
