//! A map of leases that nobody but the agent writes, and what it holds.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError};
use flannel_common::lease::Lease;

use super::{Prefix, Table};
use crate::dataplane::bpf::batch;
use crate::dataplane::bpf::family::Family;
use crate::dataplane::desired::Changes;

/// What the kinds of maps that hold leases by prefix have in common.
pub(in crate::dataplane::bpf) trait ByPrefix<A: Family>: Sized {
    /// The map, and its descriptor for requests that `aya` does not have.
    fn open(map: Map) -> Result<(Self, OwnedFd)>;
    fn insert(&mut self, key: &Key<A>, lease: Lease<A>) -> Result<(), MapError>;
    fn remove(&mut self, key: &Key<A>) -> Result<(), MapError>;
    fn entries(&self) -> impl Iterator<Item = Result<(Key<A>, Lease<A>), MapError>>;
}

/// One kind of map.
macro_rules! by_prefix {
    ($kind:ident, $key:ty) => {
        impl<A: Family> ByPrefix<A> for $kind<MapData, $key, Lease<A>> {
            fn open(map: Map) -> Result<(Self, OwnedFd)> {
                let Map::$kind(data) = &map else { bail!("the map is no {}", stringify!($kind)) };
                let fd = data.fd().as_fd().try_clone_to_owned().context("duplicating a file descriptor")?;
                Ok((Self::try_from(map)?, fd))
            }

            fn insert(&mut self, key: &Key<A>, lease: Lease<A>) -> Result<(), MapError> {
                self.insert(key, lease, 0)
            }

            fn remove(&mut self, key: &Key<A>) -> Result<(), MapError> {
                self.remove(key)
            }

            fn entries(&self) -> impl Iterator<Item = Result<(Key<A>, Lease<A>), MapError>> {
                self.iter()
            }
        }
    };
}

by_prefix!(LpmTrie, A);
by_prefix!(HashMap, Key<A>);

/// The map, and its content as far as we know.
pub(in crate::dataplane::bpf) struct Written<M, A: Family> {
    name: &'static str,
    map: M,
    fd: OwnedFd,
    content: Table<A>,
}

impl<M: ByPrefix<A>, A: Family> Written<M, A> {
    /// Takes over the map with what an earlier agent left in it.
    pub(super) fn open(name: &'static str, map: Map) -> Result<Self> {
        let (map, fd) = M::open(map).context(name)?;
        let content = read(name, &map)?;
        Ok(Self { name, map, fd, content })
    }

    pub(super) const fn content(&self) -> &Table<A> {
        &self.content
    }

    /// Makes the map hold exactly this.
    pub(super) fn become_like(&mut self, desired: Table<A>) -> Result<()> {
        let written = self.write(&Changes::between(&self.content, &desired));
        self.content = desired;
        self.known(written)
    }

    /// Adds what the map does not have yet.
    pub(super) fn add(&mut self, more: Table<A>) -> Result<()> {
        let written = self.write(&Changes::between(&Table::default(), &more));
        self.content.extend(more);
        self.known(written)
    }

    /// After a failure only the map itself knows what it holds.
    fn known(&mut self, written: Result<()>) -> Result<()> {
        if written.is_err() {
            self.content = read(self.name, &self.map)?;
        }
        written
    }

    /// Many at once, and then one by one what is left: what the kernel refused, or all if it cannot do many.
    fn write(&mut self, Changes { set, remove }: &Changes<Prefix<A>, Lease<A>>) -> Result<()> {
        let (keys, leases): (Vec<_>, Vec<_>) =
            set.iter().map(|(subnet, lease)| (subnet.key(), *lease)).unzip();
        let done = batch::update(&self.fd, &keys, &leases);
        for (subnet, lease) in set.iter().skip(done) {
            let inserted = self.map.insert(&subnet.key(), *lease);
            inserted.with_context(|| format!("lease {subnet} into {}", self.name))?;
        }
        let keys: Vec<_> = remove.iter().map(|(subnet, _)| subnet.key()).collect();
        let done = batch::delete(&self.fd, &keys);
        for (subnet, _) in remove.iter().skip(done) {
            let removed = self.map.remove(&subnet.key());
            removed.with_context(|| format!("lease {subnet} out of {}", self.name))?;
        }
        Ok(())
    }
}

fn read<A: Family>(name: &'static str, map: &impl ByPrefix<A>) -> Result<Table<A>> {
    map.entries()
        .map(|entry| {
            let (key, lease) = entry.with_context(|| format!("reading {name}"))?;
            Ok((Prefix { network: key.data(), length: u8::try_from(key.prefix_len())? }, lease))
        })
        .collect()
}
