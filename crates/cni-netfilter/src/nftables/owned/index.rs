//! The index of owners: each table has a map `owners` with one entry for each owner that has an element in it. So it takes constant
//! time to find out that an owner has nothing, or that all it has was found.

use std::collections::BTreeMap;

use super::comment;
use crate::nftables::ruleset::{DataType, Element, Found, Key, Maps, Set, SetId, Value, element};
use crate::nftables::wire::{NftError, Socket, Table};
use cni_plugin::Family;

const OWNERS: &str = "owners";

/// The map: the owner's key, 128 bits and therefore listed as an IPv6 address, leads to the number of its elements and to
/// the index of its container's link on the node (0 if that is not known).
pub(crate) fn set() -> Set {
    Set {
        name: OWNERS,
        key: &[DataType::Address(Family::V6)],
        maps: Maps::To(&[DataType::Mark, DataType::Mark]),
        comment: "owner : how much it has, link",
    }
}

pub(crate) fn set_id(table: Table<'static>) -> SetId {
    SetId { table, name: OWNERS }
}

/// What an owner has in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// How many elements.
    pub(crate) elements: u32,
    /// The node's end of the container's link; 0 if unknown.
    pub(crate) link: u32,
}

impl Entry {
    pub(super) fn value(self) -> Value {
        // `mark` is in host byte order.
        Value::Data([self.elements.to_ne_bytes(), self.link.to_ne_bytes()].concat())
    }

    pub(crate) fn read(found: &Found) -> Option<Self> {
        let Value::Data(bytes) = &found.value else { return None };
        let number = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        Some(Self { elements: number(0)?, link: number(4)? })
    }
}

/// The entry's key for the owner with this comment in the index of `table`; none if the comment isn't an owner's.
pub(crate) fn key(table: Table<'static>, comment: &str) -> Option<Key> {
    let digits: String = comment::key(comment).chars().filter(|c| *c != '-').collect();
    let key = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(Key::new(set_id(table), key.to_be_bytes().to_vec()))
}

/// What the index of each table says of the owner with this comment, in constant time.
pub(crate) fn look_up(
    socket: &Socket,
    tables: impl IntoIterator<Item = Table<'static>>,
    comment: &str,
) -> Result<Vec<Option<Entry>>, NftError> {
    let keys: Vec<Key> = tables.into_iter().filter_map(|table| key(table, comment)).collect();
    let found = element::look_up(socket, &keys)?;
    Ok(found.into_iter().map(|found| found.as_ref().and_then(Entry::read)).collect())
}

/// Entries of the index that change.
#[derive(Default)]
pub(super) struct Changed {
    /// To be deleted.
    pub(super) replaced: Vec<Key>,
    /// In their place.
    pub(super) create: Vec<Element>,
}

/// The entries of the owners with these comments, when each has one element more or less in the table. An owner without an element has
/// no entry.
pub(super) fn recount<'a>(
    socket: &Socket,
    changes: impl Iterator<Item = (Table<'static>, &'a str, i64)>,
) -> Result<Changed, NftError> {
    let mut by_owner: BTreeMap<Key, i64> = BTreeMap::new();
    for (table, comment, more) in changes {
        let Some(key) = key(table, comment) else { continue };
        *by_owner.entry(key).or_default() += more;
    }
    let found = element::look_up(socket, by_owner.keys())?;
    let mut changed = Changed::default();
    for ((key, more), found) in by_owner.into_iter().zip(found) {
        let Some(found) = found else { continue };
        if let Some(entry) = Entry::read(&found) {
            let elements = u32::try_from(i64::from(entry.elements).saturating_add(more).max(0)).unwrap_or(u32::MAX);
            if elements > 0 {
                let (value, name) =
                    (Entry { elements, ..entry }.value(), format!("an entry in the index of {}", key.set.table));
                changed.create.push(Element { key: key.clone(), value, comment: found.comment, name });
            }
        }
        changed.replaced.push(key);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::wire::TableFamily;

    const TABLE: Table<'static> = Table { family: TableFamily::Ip, name: "t" };

    #[test]
    fn an_owner_is_found_by_its_comment() {
        let found = key(TABLE, "c5964c6794a1152e-f4d01f2ef4b92245, id: c1").unwrap();
        assert_eq!(found.bytes[..4], [0xc5, 0x96, 0x4c, 0x67]);
        assert_eq!(found.bytes[12..], [0xf4, 0xb9, 0x22, 0x45]);
        for strange in ["", "by hand", "c5964c6794a1152e", "c5964c6794a1152e-f4d01f2ef4b9224x, id: c1"] {
            assert_eq!(key(TABLE, strange), None, "{strange:?}");
        }
    }

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let entry = Entry { elements: 3, link: 57 };
        let found = |value| Found { key: Key::new(set_id(TABLE), Vec::new()), value, comment: String::new() };
        assert_eq!(Entry::read(&found(entry.value())), Some(entry));
        assert_eq!(Entry::read(&found(Value::Data(vec![1, 0, 0, 0]))), None);
        assert_eq!(Entry::read(&found(Value::Nothing)), None);
    }
}
