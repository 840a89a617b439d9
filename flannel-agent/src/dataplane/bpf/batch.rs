//! Many entries of a map with one system call, which `aya` does not have (Linux 5.6; for LPM tries 5.13).

use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use aya::maps::MapData;

use super::syscall::bpf;

/// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// `union bpf_attr` as these commands read it.
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

    /// Passes the entries of a hash map or LPM trie on, at most `at_once` at a time, which must be more than share a hash. An entry that
    /// is written meanwhile may be passed on or not, and one of a trie twice.
    pub(super) fn read(&self, at_once: usize, mut pass_on: impl FnMut(&[K], &[V])) -> Result<()> {
        let (mut keys, mut values) = (vec![zeroed::<K>(); at_once], vec![zeroed::<V>(); at_once]);
        let mut place = vec![0_u8; size_of::<K>().max(size_of::<u32>())];
        let mut is_first = true;
        loop {
            let mut batch = Attributes {
                in_batch: if is_first { 0 } else { place.as_ptr() as u64 },
                out_batch: place.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: u32::try_from(at_once)?,
                map_fd: self.map.as_raw_fd().cast_unsigned(),
                ..Attributes::default()
            };
            // SAFETY: the attributes are laid out for the command. The kernel writes at most `count` keys and values, for which
            // there is room: `new` has compared their sizes with the map's. A hash map's place is a number of 4 bytes,
            // that of a trie is a key.
            let read = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) };
            let is_last = match read {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) => return Err(error).context("reading entries of a map"),
            };
            let count = (batch.count as usize).min(at_once);
            pass_on(&keys[..count], &values[..count]);
            if is_last {
                return Ok(());
            }
            is_first = false;
        }
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

fn zeroed<T: Pod>() -> T {
    // SAFETY: plain data, of which every bit pattern is valid.
    unsafe { std::mem::zeroed() }
}
