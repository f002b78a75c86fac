//! Elements that several attachments of one container want, as runtimes pass a container's ports to each of its networks. The first
//! attachment has the element; each later one has an entry in the waitlist, `padding, key, rank : value`, with its owner in the comment.
//! A removal of the element's holder gives the element to the first in the waitlist, in the same transaction.
//!
//! The ranks of a key have no gaps, so one lookup of rank 0 shows whether any attachment waits.

use std::collections::HashSet;

use super::comment::{self, same_container, same_owner};
use super::share::{self, Chains, Left, Share, Shared};
use crate::nftables::ruleset::{Element, Found, Key, SetId, Value, chain, element};
use crate::nftables::wire::{NftError, Socket, Table};

/// The waitlist of a table.
#[derive(Debug)]
pub(crate) struct Waitlist {
    /// The set with its entries.
    pub(crate) set: &'static str,
    /// The sets whose elements are waited for. They differ in their padding, the longest comes first.
    pub(crate) awaited: [Awaited; 2],
    /// Followed by the owner's key: the chain that its companions lead to. An owner without that chain has no companions.
    pub(crate) own_chain: &'static str,
    /// An awaited element in the words of a message.
    pub(crate) describe: fn(&Key) -> String,
}

/// A set whose elements are waited for.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) set: &'static str,
    /// So many zero bytes come before its keys in the waitlist.
    pub(crate) padding: usize,
    /// The set of companions: elements with the same keys that lead to their owner's chain, and come and go with the awaited ones.
    pub(crate) companions: &'static str,
    /// How several containers share its elements.
    pub(crate) shared: Shared,
}

impl Waitlist {
    pub(super) fn awaited(&self, set: SetId) -> Option<&Awaited> {
        self.awaited.iter().find(|awaited| awaited.set == set.name)
    }

    /// The key of the companion of an element; `None` for elements of other sets.
    pub(super) fn companion(&self, key: &Key) -> Option<Key> {
        let name = self.awaited(key.set)?.companions;
        Some(Key::new(SetId { name, ..key.set }, key.bytes.clone()))
    }

    /// The chain of the owner with this comment.
    pub(crate) fn chain_of(&self, comment: &str) -> String {
        format!("{}{}", self.own_chain, comment::key(comment))
    }

    /// The key of an entry: that of the awaited element, with padding before and the rank in host byte order behind it.
    fn entry_key(&self, awaited: &Key, rank: usize) -> Key {
        let mut bytes = vec![0; self.awaited(awaited.set).map_or(0, |set| set.padding)];
        bytes.extend(&awaited.bytes);
        bytes.extend(u32::try_from(rank).unwrap_or(u32::MAX).to_ne_bytes());
        Key::new(SetId { name: self.set, ..awaited.set }, bytes)
    }

    /// The awaited element that an entry, a member, a choice, or the element itself, is about.
    pub(super) fn awaited_key(&self, key: &Key) -> Option<Key> {
        if self.awaited(key.set).is_some() {
            return Some(key.clone());
        }
        if let Some(key) = self.awaited.iter().find_map(|awaited| awaited.shared.element_key(key, awaited.set)) {
            return Some(key);
        }
        let (bytes, _rank) = key.bytes.split_at_checked(key.bytes.len().checked_sub(4)?)?;
        let of = |set: &Awaited| {
            let (padding, bytes) = bytes.split_at_checked(set.padding).filter(|_| key.set.name == self.set)?;
            let name = padding.iter().all(|byte| *byte == 0).then_some(set.set)?;
            Some(Key::new(SetId { name, ..key.set }, bytes.to_vec()))
        };
        self.awaited.iter().find_map(of)
    }

    fn entry(&self, awaited: &Key, rank: usize, value: Value, comment: &str) -> Element {
        let name = format!("waitlist entry for {}", (self.describe)(awaited));
        Element { key: self.entry_key(awaited, rank), value, comment: comment.to_owned(), name }
    }
}

/// The entries for each of these elements, by rank.
fn waiting(socket: &Socket, awaited: &[(&Waitlist, Key)]) -> Result<Vec<Vec<Found>>, NftError> {
    let mut lists = vec![Vec::new(); awaited.len()];
    let mut open: Vec<usize> = (0..awaited.len()).collect();
    for rank in 0.. {
        if open.is_empty() {
            break;
        }
        let entry_key = |n: &usize| awaited[*n].0.entry_key(&awaited[*n].1, rank);
        let found = element::look_up(socket, &open.iter().map(entry_key).collect::<Vec<_>>())?;
        let more = open.into_iter().zip(found).filter_map(|(n, found)| {
            lists[n].push(found?);
            Some(n)
        });
        open = more.collect();
    }
    Ok(lists)
}

/// An entry that should be there.
pub(super) struct Wanted {
    pub(super) entry: Element,
    /// What is there in its place.
    pub(super) found: Option<Value>,
}

/// The entries for elements that other attachments of their container have.
pub(super) fn wanted(socket: &Socket, elements: &[(&Waitlist, &Element)]) -> Result<Vec<Wanted>, NftError> {
    let awaited: Vec<_> = elements.iter().map(|(waitlist, element)| (*waitlist, element.key.clone())).collect();
    let one = |((waitlist, element), list): (&(&Waitlist, &Element), Vec<Found>)| {
        let own = list.iter().position(|found| same_owner(&found.comment, &element.comment));
        let entry = waitlist.entry(&element.key, own.unwrap_or(list.len()), element.value.clone(), &element.comment);
        Wanted { entry, found: own.map(|rank| list[rank].value.clone()) }
    };
    Ok(elements.iter().zip(waiting(socket, &awaited)?).map(one).collect())
}

/// What a removal consists of.
#[derive(Default)]
pub(super) struct Succession {
    /// What the leaving owners have, to be deleted.
    pub(super) gone: Vec<Found>,
    /// Elements of others, to be deleted before they are created anew.
    pub(super) replaced: Vec<Key>,
    pub(super) create: Vec<Element>,
    /// Elements that others have in addition: the index has to count them.
    pub(super) further: Vec<(Table<'static>, String)>,
    /// The chains of choices that change.
    pub(super) chains: Chains,
}

/// Who has what when `released`, elements of owners whose comments satisfy `leaves`, is deleted, and these owners leave the waitlists
/// and the shares of the `awaited` elements.
pub(super) fn succession(
    socket: &Socket,
    awaited: &[(&'static Waitlist, Key)],
    released: Vec<Found>,
    leaves: &impl Fn(&str) -> bool,
) -> Result<Succession, NftError> {
    let free: HashSet<Key> = released.iter().map(|found| found.key.clone()).collect();
    let mut succession = Succession::default();
    let mut successors = Vec::new();
    let shares = share::look_up(socket, awaited)?;
    for ((waitlist, key), waiting) in awaited.iter().zip(waiting(socket, awaited)?) {
        let line = Line { waitlist, key, waiting, share: shares.get(key), is_free: free.contains(key) };
        successors.extend(succession.leave(line, leaves).map(|successor| (*waitlist, key, successor)));
    }
    succession.take_over(socket, &successors, &free, leaves)?;
    // Entries are among what is gone already, unless they are behind a gap.
    let known: HashSet<Key> = succession.gone.iter().map(|found| found.key.clone()).collect();
    succession.gone.extend(released.into_iter().filter(|found| !known.contains(&found.key)));
    Ok(succession)
}

/// Who has an awaited element besides its holder.
struct Line<'a> {
    waitlist: &'a Waitlist,
    key: &'a Key,
    /// By rank.
    waiting: Vec<Found>,
    share: Option<&'a Share>,
    /// True if the holder leaves.
    is_free: bool,
}

impl Succession {
    /// Takes those who leave out of a line. Returns who gets the element, if it is free.
    fn leave(&mut self, line: Line<'_>, leaves: &impl Fn(&str) -> bool) -> Option<Found> {
        let Line { waitlist, key, waiting, share, is_free } = line;
        let (leaving, mut staying): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|found| leaves(&found.comment));
        let keys: Vec<Key> = staying.iter().map(|found| found.key.clone()).collect();
        // A member's place goes to its own container, which alone may wait for it.
        let sibling = |comment: &str, staying: &mut Vec<Found>| {
            let position = staying.iter().position(|found| same_container(&found.comment, comment))?;
            Some(staying.remove(position))
        };
        let left = share.map(|share| share.leave(leaves, |comment| sibling(comment, &mut staying))).unwrap_or_default();
        let member = left.first.clone().filter(|_| is_free);
        // As a member, it keeps what it has.
        self.further.extend(member.iter().map(|member| (key.set.table, member.comment.clone())));
        let is_next = is_free && left.first.is_none() && !staying.is_empty();
        let successor = member.or_else(|| is_next.then(|| staying.remove(0)));
        if keys.len() != staying.len() || !leaving.is_empty() {
            self.replaced.extend(keys);
            let moved = staying.into_iter().enumerate();
            self.create.extend(moved.map(|(rank, found)| waitlist.entry(key, rank, found.value, &found.comment)));
        }
        self.gone.extend(leaving);
        if let Some(share) = share {
            self.chains.note_left(share, &left);
            self.leave_share(key.set.table, left);
        }
        successor
    }

    /// All keys to be deleted.
    pub(super) fn deleted(&self) -> impl Iterator<Item = &Key> {
        self.gone.iter().map(|found| &found.key).chain(&self.replaced)
    }

    fn leave_share(&mut self, table: Table<'static>, left: Left) {
        self.gone.extend(left.gone);
        self.replaced.extend(left.replaced);
        self.create.extend(left.create);
        self.further.extend(left.further.map(|comment| (table, comment)));
    }

    /// The successors' elements, with their own companions in place of the former holder's.
    fn take_over(
        &mut self,
        socket: &Socket,
        successors: &[(&Waitlist, &Key, Found)],
        free: &HashSet<Key>,
        leaves: &impl Fn(&str) -> bool,
    ) -> Result<(), NftError> {
        let with_companions = with_companions(socket, successors)?;
        let companions: Vec<Key> = successors.iter().filter_map(|(list, key, _)| list.companion(key)).collect();
        let former = element::look_up(socket, &companions)?;
        for (((waitlist, key, successor), companion), former) in successors.iter().zip(companions).zip(former) {
            self.gone.extend(former.filter(|former| !free.contains(&former.key) && leaves(&former.comment)));
            let Found { value, comment, .. } = successor;
            let (own_chain, name) = (waitlist.chain_of(comment), (waitlist.describe)(key));
            let table = key.set.table;
            if with_companions.contains(&(table, own_chain.clone())) {
                let (value, name) = (Value::Goto(own_chain), format!("conditions of {name}"));
                self.create.push(Element { key: companion, value, comment: comment.clone(), name });
                self.further.push((table, comment.clone()));
            }
            let (key, value, comment) = ((*key).clone(), value.clone(), comment.clone());
            self.create.push(Element { key, value, comment, name });
        }
        Ok(())
    }
}

/// The chains of those successors that have one.
fn with_companions(
    socket: &Socket,
    successors: &[(&Waitlist, &Key, Found)],
) -> Result<HashSet<(Table<'static>, String)>, NftError> {
    let chain_of =
        |(waitlist, key, found): &(&Waitlist, &Key, Found)| (key.set.table, waitlist.chain_of(&found.comment));
    let chains: HashSet<_> = successors.iter().map(chain_of).collect();
    let mut there = HashSet::new();
    for (table, name) in chains {
        if chain::exists(socket, table, &name)? {
            there.insert((table, name));
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::wire::TableFamily;

    #[test]
    fn an_entry_contains_what_it_waits_for() {
        let shared = || Shared {
            choices: "c",
            members: "m",
            any_of: "any-of-",
            chain: |_| chain::Chain::regular("", Vec::new()),
        };
        let of = |set, padding| Awaited { set, padding, companions: "companions", shared: shared() };
        let waitlist = Waitlist {
            set: "waiting",
            awaited: [of("short", 4), of("long", 0)],
            own_chain: "when-",
            describe: |_| String::new(),
        };
        let set = |name| SetId { table: Table { family: TableFamily::Ip, name: "t" }, name };
        let port = vec![6, 0, 0, 0, 0, 80, 0, 0];
        for awaited in [Key::new(set("short"), port.clone()), Key::new(set("long"), [vec![9; 4], port].concat())] {
            for rank in [0, 3] {
                assert_eq!(waitlist.awaited_key(&waitlist.entry_key(&awaited, rank)), Some(awaited.clone()));
            }
            assert_eq!(waitlist.awaited_key(&awaited), Some(awaited.clone()));
            let companion = waitlist.companion(&awaited).unwrap();
            assert_eq!((companion.set.name, &companion.bytes), ("companions", &awaited.bytes));
            assert_eq!(waitlist.awaited_key(&companion), None);
        }
        assert_eq!(waitlist.awaited_key(&Key::new(set("waiting"), vec![0; 3])), None);
        assert_eq!(waitlist.chain_of("key, id: c1"), "when-key");
    }
}
