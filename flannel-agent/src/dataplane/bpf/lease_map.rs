//! A map of leases by prefix. Only the agent writes it, and remembers its content.

use anyhow::{Context as _, Result, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError};
use flannel_common::lease::Lease;

use super::batch::Batch;
use super::family::MapFamily;
use super::prefix::Prefix;
use crate::dataplane::desired::Changes;
use crate::dataplane::table;

/// Leases by prefix.
pub(super) type Table<A> = table::Table<Prefix<A>, Lease<A>>;

type LeaseBatch<A> = Batch<Key<A>, Lease<A>>;

/// A kind of map that can hold leases by prefix.
pub(super) trait ByPrefix<A: MapFamily>: Sized {
    /// Opens the map, and its batch operations.
    fn open(map: Map) -> Result<(Self, LeaseBatch<A>)>;
    fn insert(&mut self, key: &Key<A>, lease: Lease<A>) -> Result<(), MapError>;
    fn remove(&mut self, key: &Key<A>) -> Result<(), MapError>;
    fn entries(&self) -> impl Iterator<Item = Result<(Key<A>, Lease<A>), MapError>>;
}

macro_rules! by_prefix {
    ($kind:ident, $key:ty) => {
        impl<A: MapFamily> ByPrefix<A> for $kind<MapData, $key, Lease<A>> {
            fn open(map: Map) -> Result<(Self, LeaseBatch<A>)> {
                let Map::$kind(data) = &map else { bail!("the map is no {}", stringify!($kind)) };
                let batch = Batch::new(data)?;
                Ok((Self::try_from(map)?, batch))
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

/// A map, and its content by what was read and written last.
pub(super) struct LeaseMap<M, A: MapFamily> {
    name: &'static str,
    map: M,
    batch: LeaseBatch<A>,
    content: Table<A>,
}

impl<M: ByPrefix<A>, A: MapFamily> LeaseMap<M, A> {
    /// Opens the map, with what an earlier agent left in it.
    pub(super) fn open(name: &'static str, map: Map) -> Result<Self> {
        let (map, batch) = M::open(map).context(name)?;
        let content = read(name, &map)?;
        Ok(Self { name, map, batch, content })
    }

    pub(super) const fn content(&self) -> &Table<A> {
        &self.content
    }

    /// Makes the map hold exactly these leases. Returns whether one that it had has changed or is gone.
    pub(super) fn set(&mut self, desired: Table<A>) -> Result<bool> {
        let changes = Changes::between(&self.content, &desired);
        let is_known = |(subnet, _): &(Prefix<A>, _)| self.content.contains_key(subnet);
        let replaces = !changes.remove.is_empty() || changes.set.iter().any(is_known);
        let written = self.write(&changes);
        self.content = desired;
        self.read_after_failure(written).map(|()| replaces)
    }

    /// Adds leases that the map does not have.
    pub(super) fn add(&mut self, more: Table<A>) -> Result<()> {
        let written = self.write(&Changes::between(&Table::default(), &more));
        self.content.extend(more);
        self.read_after_failure(written)
    }

    fn read_after_failure(&mut self, written: Result<()>) -> Result<()> {
        if written.is_err() {
            self.content = read(self.name, &self.map)?;
        }
        written
    }

    /// Writes in batches, and the rest one by one: what the kernel refused, or everything if it has no batches.
    fn write(&mut self, Changes { set, remove }: &Changes<Prefix<A>, Lease<A>>) -> Result<()> {
        let (keys, leases): (Vec<_>, Vec<_>) =
            set.iter().map(|(subnet, lease)| (subnet.key(), *lease)).unzip();
        let done = self.batch.update(&keys, &leases);
        for (subnet, lease) in set.iter().skip(done) {
            let inserted = self.map.insert(&subnet.key(), *lease);
            inserted.with_context(|| format!("lease {subnet} into {}", self.name))?;
        }
        let keys: Vec<_> = remove.iter().map(|(subnet, _)| subnet.key()).collect();
        let done = self.batch.delete(&keys);
        for (subnet, _) in remove.iter().skip(done) {
            let removed = self.map.remove(&subnet.key());
            removed.with_context(|| format!("lease {subnet} out of {}", self.name))?;
        }
        Ok(())
    }
}

fn read<A: MapFamily>(name: &'static str, map: &impl ByPrefix<A>) -> Result<Table<A>> {
    map.entries()
        .map(|entry| {
            let (key, lease) = entry.with_context(|| format!("reading {name}"))?;
            let prefix = Prefix::from_key(&key).with_context(|| format!("a key of {name} has no length"))?;
            Ok((prefix, lease))
        })
        .collect()
}
