//! A sorted table in contiguous memory. It is built from tens of thousands of leases whenever one of them
//! changes, and compared with the previous one. A tree would take several times as long, and twice the
//! memory.

use std::slice;

/// Keys and values, sorted by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<K, V>(Vec<(K, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Table<K, V> {
    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.binary_search_by(|(one, _)| one.cmp(key)).ok().map(|index| &self.0[index].1)
    }

    /// Whether the key has a value.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Returns the last entry whose key is not greater than this one.
    #[must_use]
    pub fn last_up_to(&self, key: &K) -> Option<&(K, V)> {
        self.0[..self.0.partition_point(|(one, _)| one <= key)].last()
    }

    /// Returns the number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether two tables have no key in common.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        other.0.iter().all(|(key, _)| !self.contains_key(key))
    }

    /// Iterates over the entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.into_iter()
    }
}

/// Of several values of a key the last one counts. Sorted entries are cheap to add.
impl<K: Ord, V> Extend<(K, V)> for Table<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        self.0.extend(entries);
        self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.0.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut table = Self::default();
        table.extend(entries);
        table
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Table<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

/// Iterator over the entries of a table.
pub type Iter<'a, K, V> = std::iter::Map<slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

impl<'a, K, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl<K, V> IntoIterator for Table<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_key_counts_and_keys_are_sorted() {
        let table = Table::from([(3, 'a'), (1, 'b'), (3, 'c'), (2, 'd'), (1, 'e')]);
        assert_eq!(table, Table::from([(1, 'e'), (2, 'd'), (3, 'c')]));
        assert_eq!(table.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((table.get(&2), table.get(&4)), (Some(&'d'), None));
        assert_eq!(table.len(), 3);
        assert!(!table.is_empty() && table.contains_key(&1));
        let mut more = table;
        more.extend([(5, 'f'), (2, 'g'), (4, 'h')]);
        assert_eq!(more, Table::from([(1, 'e'), (2, 'g'), (3, 'c'), (4, 'h'), (5, 'f')]));
        assert!(more.is_disjoint(&Table::from([(6, 'i'), (0, 'j')])));
        assert!(!more.is_disjoint(&Table::from([(6, 'i'), (5, 'f')])));
    }

    #[test]
    fn the_last_entry_up_to_a_key_is_found() {
        let table = Table::from([(10, 'a'), (20, 'b')]);
        for (key, expected) in
            [(9, None), (10, Some((10, 'a'))), (19, Some((10, 'a'))), (99, Some((20, 'b')))]
        {
            assert_eq!(table.last_up_to(&key).copied(), expected, "{key}");
        }
    }
}
