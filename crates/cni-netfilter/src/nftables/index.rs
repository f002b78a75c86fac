//! The index of owners: each of our tables has a map `owners` with one element for each owner that has anything in it.
//! So it takes constant time to tell that an owner has nothing, or that all it has was found.

use std::collections::BTreeMap;

use cni_plugin::Owner;

use super::comment::same_owner;
use super::element::{self, Element, Found, SetId, Value};
use super::error::NftError;
use super::expr::Ip;
use super::frame::TableId;
use super::plan::{Plan, Registration};
use super::set::{DataType, Maps, Set};
use super::transport::Socket;

/// The map's name.
pub(super) const OWNERS: &str = "owners";

/// The map: the owner's key, 128 bits and therefore listed as an IPv6 address, leads to the number of its elements and to
/// the index of its container's link on the node (0 if that is not known).
pub(super) fn set() -> Set {
    Set {
        name: OWNERS,
        key: &[DataType::Address(Ip::V6)],
        maps: Maps::To(&[DataType::Mark, DataType::Mark]),
        comment: "owner : how much it has, link",
    }
}

/// What an owner has in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// How many elements.
    pub(super) elements: u32,
    /// The node's end of the container's link; 0 if unknown.
    pub(super) link: u32,
}

impl Entry {
    fn value(self) -> Value {
        // `mark` is in host byte order.
        let mut bytes = self.elements.to_ne_bytes().to_vec();
        bytes.extend(self.link.to_ne_bytes());
        Value::Data(bytes)
    }

    fn read(found: &Found) -> Option<Self> {
        let Value::Data(bytes) = &found.value else { return None };
        let number = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        Some(Self { elements: number(0)?, link: number(4)? })
    }
}

impl Registration {
    /// True if `element` is one of those that it counts.
    pub(super) fn counts(&self, element: &Element) -> bool {
        element.set.table == self.set.table && element.comment == self.comment
    }

    /// True if somebody with this comment is the same owner.
    pub(super) fn is_of(&self, comment: &str) -> bool {
        same_owner(comment, &self.comment)
    }

    /// Its element, for an owner with so many others.
    pub(super) fn element(&self, elements: usize) -> Element {
        let entry = Entry { elements: u32::try_from(elements).unwrap_or(u32::MAX), link: self.link };
        Element {
            set: self.set,
            key: self.key.clone(),
            value: entry.value(),
            comment: self.comment.clone(),
            name: self.name.clone(),
        }
    }

    /// How many elements its element says there are.
    pub(super) fn counted(found: &Found) -> Option<usize> {
        Entry::read(found).and_then(|entry| usize::try_from(entry.elements).ok())
    }
}

impl Plan {
    /// Registers the owner in `table`, unless it is already.
    pub(super) fn register(&mut self, table: TableId, owner: &Owner, link: Option<u32>) {
        let set = SetId { table, name: OWNERS };
        let Some(key) = key(&owner.key()) else { return };
        if self.owners.iter().all(|other| other.set != set || other.key != key) {
            let name = format!("entry of {owner} in the index of {table}");
            self.owners.push(Registration { set, key, comment: owner.comment(), name, link: link.unwrap_or(0) });
        }
    }
}

/// The 128 bits that begin an owner's comment.
fn key(comment: &str) -> Option<Vec<u8>> {
    let digits: String = comment.split(',').next()?.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32).map(|key| key.to_be_bytes().to_vec())
}

/// The keys of the owner of `comment` in the index of each table; none if the comment isn't an owner's.
pub(super) fn keys(tables: &[TableId], comment: &str) -> Vec<(SetId, Vec<u8>)> {
    let key = key(comment);
    tables.iter().filter_map(|table| Some((SetId { table: *table, name: OWNERS }, key.clone()?))).collect()
}

/// What the index of each table says of the owner of `comment`, in constant time.
pub(super) fn look_up(socket: &Socket, tables: &[TableId], comment: &str) -> Result<Vec<Option<Entry>>, NftError> {
    let keys = keys(tables, comment);
    let found = element::look_up(socket, keys.iter().map(|(set, key)| (*set, key.as_slice())))?;
    Ok(found.into_iter().map(|found| found.as_ref().and_then(Entry::read)).collect())
}

/// Entries of the index that change.
#[derive(Default)]
pub(super) struct Changed {
    /// To be deleted.
    pub(super) replaced: Vec<(SetId, Vec<u8>)>,
    /// In their place.
    pub(super) create: Vec<Element>,
}

/// The entries of the owners of `removed` without those; none for whoever has nothing else.
pub(super) fn shrunk(socket: &Socket, removed: &[(SetId, Found)]) -> Result<Changed, NftError> {
    let mut fewer: BTreeMap<(String, &str), (TableId, u32)> = BTreeMap::new();
    for (set, found) in removed {
        let owner = found.comment.split(',').next().unwrap_or_default();
        fewer.entry((set.table.to_string(), owner)).or_insert((set.table, 0)).1 += 1;
    }
    let places = fewer.iter().flat_map(|((_, owner), (table, number))| {
        keys(&[*table], owner).into_iter().map(|place| (place, *number)).collect::<Vec<_>>()
    });
    let places: Vec<_> = places.collect();
    let found = element::look_up(socket, places.iter().map(|((set, key), _)| (*set, key.as_slice())))?;
    let mut changed = Changed::default();
    for (((set, key), number), found) in places.into_iter().zip(found) {
        let Some(found) = found else { continue };
        let left = Entry::read(&found).map(|entry| Entry { elements: entry.elements.saturating_sub(number), ..entry });
        if let Some(entry) = left.filter(|entry| entry.elements > 0) {
            let (value, name) = (entry.value(), format!("an entry in the index of {}", set.table));
            changed.create.push(Element { set, key: key.clone(), value, comment: found.comment, name });
        }
        changed.replaced.push((set, key));
    }
    Ok(changed)
}

/// The entry of the owner of `comment` with `more` elements, in place of the one that is there; `None` if there is none.
pub(super) fn grown(socket: &Socket, table: TableId, comment: &str, more: u32) -> Result<Option<Element>, NftError> {
    let keys = keys(&[table], comment);
    let found = element::look_up(socket, keys.iter().map(|(set, key)| (*set, key.as_slice())))?;
    let Some(((set, key), Some(found))) = keys.into_iter().zip(found).next() else { return Ok(None) };
    let Some(entry) = Entry::read(&found) else { return Ok(None) };
    let value = Entry { elements: entry.elements.saturating_add(more), ..entry }.value();
    let name = format!("an entry in the index of {table}");
    Ok(Some(Element { set, key, value, comment: found.comment, name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_found_by_its_comment() {
        let table = super::super::portframe::table(Ip::V4);
        let found = keys(&[table], "c5964c6794a1152e-f4d01f2ef4b92245, id: c1");
        assert_eq!(found[0].1[..4], [0xc5, 0x96, 0x4c, 0x67]);
        assert_eq!(found[0].1[12..], [0xf4, 0xb9, 0x22, 0x45]);
        for strange in ["", "by hand", "c5964c6794a1152e", "c5964c6794a1152e-f4d01f2ef4b9224x, id: c1"] {
            assert!(keys(&[table], strange).is_empty(), "{strange:?}");
        }
    }

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let entry = Entry { elements: 3, link: 57 };
        let found = |value| Found { key: Vec::new(), value, comment: String::new() };
        assert_eq!(Entry::read(&found(entry.value())), Some(entry));
        assert_eq!(Entry::read(&found(Value::Data(vec![1, 0, 0, 0]))), None);
        assert_eq!(Entry::read(&found(Value::Nothing)), None);
    }
}
