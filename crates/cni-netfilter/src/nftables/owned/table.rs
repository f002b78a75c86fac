//! What the engine has to know of a table.

use std::collections::HashSet;

use super::waitlist::Waitlist;
use crate::nftables::ruleset::{Key, SetId};
use crate::nftables::wire::Table;

/// A table of this plugin, by the sets whose elements belong to owners.
#[derive(Debug)]
pub(crate) struct OwnedTable {
    pub(crate) table: Table<'static>,
    /// Without the index, which every table has.
    pub(crate) sets: &'static [&'static str],
    /// How owners wait for an element that another attachment of their container has.
    pub(crate) waitlist: Option<Waitlist>,
}

impl OwnedTable {
    pub(super) fn set_ids(&self) -> impl Iterator<Item = SetId> {
        self.sets.iter().map(|name| SetId { table: self.table, name })
    }
}

/// The elements that `keys` are about and that can be waited for, each once: those themselves, and those that waitlist entries,
/// members and choices among `keys` are for.
pub(super) fn awaited(tables: &[&'static OwnedTable], keys: &[Key]) -> Vec<(&'static Waitlist, Key)> {
    let mut seen = HashSet::new();
    let awaited = keys.iter().filter_map(|key| {
        let table = tables.iter().find(|table| table.table == key.set.table)?;
        let waitlist = table.waitlist.as_ref()?;
        Some((waitlist, waitlist.awaited_key(key)?)).filter(|(_, key)| seen.insert(key.clone()))
    });
    awaited.collect()
}
