//! What should be there, as data. It prints itself in nft's language.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use cni_plugin::Owner;

use super::comment::{holder, same_container, same_owner};
use super::index;
use super::share::{Joined, Share, Shares};
use super::table::OwnedTable;
use super::waitlist::Waitlist;
use crate::nftables::ruleset::{Chain, Element, Found, Key, Skeleton, Value};
use crate::nftables::wire::{NftError, Table};

/// What should be there.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Whole tables, created if something in them is missing.
    pub(crate) skeletons: Vec<Skeleton>,
    /// Chains that several owners share, created if missing.
    pub(crate) shared_chains: Vec<(Table<'static>, Chain)>,
    /// Chains of a single owner, whose rules are made these and no others.
    pub(crate) own_chains: Vec<(Table<'static>, Chain)>,
    pub(crate) elements: Vec<Element>,
    /// The names of those of `elements` that their owners share with others.
    pub(crate) shares: HashMap<Key, String>,
    /// The owners of `elements`, for the index.
    pub(super) owners: Vec<Registration>,
}

/// An owner that a plan registers in a table's index.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub(super) table: &'static OwnedTable,
    pub(super) key: Key,
    pub(super) comment: String,
    name: String,
    link: u32,
}

impl Registration {
    /// True if `element` is one of those that it counts.
    pub(super) fn counts(&self, element: &Element) -> bool {
        element.key.set.table == self.table.table && same_owner(&element.comment, &self.comment)
    }

    /// Its entry in the index, for an owner with so many elements.
    pub(super) fn entry(&self, elements: usize) -> Element {
        let entry = index::Entry { elements: u32::try_from(elements).unwrap_or(u32::MAX), link: self.link };
        let (key, comment, name) = (self.key.clone(), self.comment.clone(), self.name.clone());
        Element { key, value: entry.value(), comment, name }
    }
}

impl Plan {
    /// A table with these elements in it.
    pub(crate) fn new(skeleton: Skeleton, elements: Vec<Element>) -> Self {
        Self { skeletons: vec![skeleton], elements, ..Self::default() }
    }

    /// Registers the owner in a table's index, unless it is already. `link` is the index of the node's end of its container's link.
    pub(crate) fn register(&mut self, table: &'static OwnedTable, owner: &Owner, link: Option<u32>) {
        let comment = owner.comment();
        let Some(key) = index::key(table.table, &comment) else { return };
        if self.owners.iter().all(|other| other.key != key) {
            let name = format!("entry of {owner} in the index of {}", table.table);
            self.owners.push(Registration { table, key, comment, name, link: link.unwrap_or(0) });
        }
    }

    /// Drops elements that are there twice; two different values for one key are a contradiction.
    pub(crate) fn deduplicate(&mut self) -> Result<(), NftError> {
        let mut seen: HashMap<Key, Value> = HashMap::new();
        let mut twice = None;
        self.elements.retain(|element| match seen.entry(element.key.clone()) {
            Entry::Vacant(place) => {
                place.insert(element.value.clone());
                true
            }
            Entry::Occupied(first) => {
                if *first.get() != element.value && twice.is_none() {
                    twice = Some(element.name.clone());
                }
                false
            }
        });
        twice.map_or(Ok(()), |thing| Err(NftError::Twice { thing }))
    }

    /// The keys of its elements.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.elements.iter().map(|element| element.key.clone()).collect()
    }

    /// The entries of its owners in the indexes, if its elements are all that they have.
    pub(super) fn entries(&self) -> impl Iterator<Item = Element> {
        self.owners.iter().map(|owner| owner.entry(self.elements.iter().filter(|e| owner.counts(e)).count()))
    }

    fn waitlist(&self, table: Table<'static>) -> Option<&'static Waitlist> {
        self.owners.iter().find(|owner| owner.table.table == table)?.table.waitlist.as_ref()
    }

    /// Those of its elements that are shared, or may be because something is in their place.
    pub(super) fn maybe_shared(&self, found: &[Option<Found>]) -> Vec<(&'static Waitlist, Key)> {
        let may_be =
            |(element, found): &(&Element, &Option<Found>)| found.is_some() || self.shares.contains_key(&element.key);
        let awaited = |(element, _): (&Element, &Option<Found>)| {
            let waitlist = self.waitlist(element.key.set.table)?;
            waitlist.awaited(element.key.set).map(|_| (waitlist, element.key.clone()))
        };
        self.elements.iter().zip(found).filter(may_be).filter_map(awaited).collect()
    }

    /// The share that an element's owner wants to be a member of, as it is, and its name; `None` if the element is not shared.
    pub(super) fn share_of<'a>(&'a self, element: &Element, shares: &Shares) -> Option<(Share, &'a str)> {
        let name = self.shares.get(&element.key)?;
        let waitlist = self.waitlist(element.key.set.table)?;
        let none = || Some(Share::none(waitlist, waitlist.awaited(element.key.set)?, element.key.clone()));
        Some((shares.get(&element.key).cloned().or_else(none)?, name))
    }

    /// Its elements by who has them, given what was found in the place of each.
    pub(super) fn by_holder(&self, found: Vec<Option<Found>>, shares: &Shares) -> Vec<(&Element, Holder)> {
        let mut lost: Vec<Key> = Vec::new();
        let holder = |(element, found): (_, Option<Found>)| {
            let element: &Element = element;
            if lost.contains(&element.key) {
                return (element, Holder::OfCompanion);
            }
            let holder = self.holder(element, found, shares.get(&element.key));
            if !matches!(holder, Holder::Own(_)) {
                let waitlist = self.waitlist(element.key.set.table);
                lost.extend(waitlist.and_then(|waitlist| waitlist.companion(&element.key)));
            }
            (element, holder)
        };
        self.elements.iter().zip(found).map(holder).collect()
    }

    /// Who has an element, given what was found in its place and, if it is shared, its members.
    fn holder(&self, element: &Element, found: Option<Found>, share: Option<&Share>) -> Holder {
        let own = &element.comment;
        let wanted = self.shares.get(&element.key);
        let (found, other) = match found {
            Some(found) if !same_owner(&found.comment, own) => (None, Some(found.comment)),
            found => (found, None),
        };
        let sibling = || {
            let waitlist = self.waitlist(element.key.set.table);
            Holder::Sibling(waitlist.filter(|waitlist| waitlist.awaited(element.key.set).is_some()))
        };
        match (share, wanted, other) {
            (Some(share), Some(name), other) if share.is_named(name) => match other {
                _ if share.has_sibling(own) => sibling(),
                Some(_) => Holder::Partner,
                None => Holder::Own(found),
            },
            // Under another name, or by others although this owner does not share it any more.
            (Some(share), _, other) => match other.as_deref().or(share.other_than(own)) {
                Some(other) => Holder::Other(other.to_owned()),
                None => Holder::Own(found),
            },
            (None, None, Some(other)) if same_container(&other, own) => sibling(),
            (None, _, Some(other)) => Holder::Other(other),
            (None, _, None) => Holder::Own(found),
        }
    }

    /// What it makes where nothing is there: its elements, with those that make it a member of its shares, and the chains for those.
    fn fresh(&self) -> (Vec<Element>, Vec<(Table<'static>, Chain)>) {
        let (mut elements, mut chains) = (self.elements.clone(), Vec::new());
        for element in &self.elements {
            let Some((share, name)) = self.share_of(element, &Shares::new()) else { continue };
            let Joined { member, choice, chain, .. } = share.joined(element, name);
            elements.extend([member.element, choice.element]);
            let table = element.key.set.table;
            if chains.iter().all(|(of, other): &(_, Chain)| (*of, &other.name) != (table, &chain.name)) {
                chains.push((table, chain));
            }
        }
        (elements, chains)
    }
}

/// Who has an element of a plan.
pub(super) enum Holder {
    /// Its owner; or it does not exist.
    Own(Option<Found>),
    /// Another member of the share that its owner wants to be a member of.
    Partner,
    /// Another attachment of the same container: the owner waits for it, if there is a waitlist for such elements.
    Sibling(Option<&'static Waitlist>),
    /// Another container, which left this comment.
    Other(String),
    /// It comes with an element that another owner has, and is left out.
    OfCompanion,
}

/// Every table that the plan concerns, with its sets, elements and chains.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (elements, chains_of_shares) = self.fresh();
        let count = |owner: &Registration| elements.iter().filter(|element| owner.counts(element)).count();
        let entries: Vec<Element> = self.owners.iter().map(|owner| owner.entry(count(owner))).collect();
        for Skeleton { table, comment, sets, chains, .. } in &self.skeletons {
            writeln!(f, "table {table} {{\n\tcomment {comment:?}")?;
            for set in sets {
                let is_in = |e: &&Element| e.key.set.table == *table && e.key.set.name == set.name;
                set.print(f, elements.iter().chain(&entries).filter(is_in))?;
            }
            let further = self.shared_chains.iter().chain(&self.own_chains).chain(&chains_of_shares);
            let further = further.filter(|(of, _)| of == table);
            for chain in chains.iter().chain(further.map(|(_, chain)| chain)) {
                chain.print(f, table.family)?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

/// Another owner has what a plan wants.
#[derive(Debug)]
pub(crate) struct Held {
    /// What it is.
    pub(crate) thing: String,
    /// The table of the element.
    pub(crate) table: Table<'static>,
    /// The comment of the holder's element.
    pub(crate) comment: String,
}

impl From<Held> for NftError {
    fn from(held: Held) -> Self {
        Self::HeldBy { thing: held.thing, holder: holder(&held.comment) }
    }
}

/// Why a plan could not be carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// These are held by others; at least one.
    Held(Vec<Held>),
    Other(NftError),
}

impl From<NftError> for Failure {
    fn from(error: NftError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for NftError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Other(error) => error,
            Failure::Held(held) => {
                let contended = || Self::Contended { what: "add the rules".into(), attempts: 1 };
                held.into_iter().next().map_or_else(contended, Self::from)
            }
        }
    }
}
