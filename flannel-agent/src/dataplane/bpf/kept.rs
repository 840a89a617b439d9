//! `KEPT`: flows that stay in the host stack, since rules there look at each of their packets.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData};
use flannel_common::abi;
use flannel_common::kept::KeptEnd;

use super::take;
use crate::dataplane::kept::KeptPrefix;

/// The map. An earlier agent's content holds until the rules are known.
pub struct KeptMap(LpmTrie<MapData, KeptEnd, u32>);

impl KeptMap {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self(LpmTrie::try_from(take(ebpf, abi::KEPT)?)?))
    }

    /// Makes the map hold exactly these. Returns whether it did not before: then proofs are to be ended.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn set(&mut self, wanted: &BTreeSet<KeptPrefix>) -> Result<bool> {
        let prefix = |key: Key<KeptEnd>| KeptPrefix { end: key.data(), bits: key.prefix_len() };
        let current = self.0.iter().map(|entry| entry.map(|(key, _)| prefix(key)));
        let current: BTreeSet<_> = current.collect::<Result<_, _>>().context("reading the BPF map KEPT")?;
        let key = |KeptPrefix { end, bits }: &KeptPrefix| Key::new(*bits, *end);
        for come in wanted.difference(&current) {
            self.0.insert(&key(come), 1, 0).context("writing the BPF map KEPT")?;
        }
        for gone in current.difference(wanted) {
            self.0.remove(&key(gone)).context("removing from the BPF map KEPT")?;
        }
        Ok(*wanted != current)
    }
}
