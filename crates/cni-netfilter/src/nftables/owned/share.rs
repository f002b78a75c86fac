//! Elements that owners of several containers share. The element itself belongs to one of them, as if it were not shared. Beside it,
//! each owner is a *member*: `key, rank : value`, with its owner in the comment; and the *choice*, `key : goto any-of-<n>`, leads to a chain
//! that takes one of the `n` members. Its comment names the share.
//!
//! The ranks have no gaps, so the chain for `n` members is the same for all elements. When a member leaves, the one with the highest
//! rank takes its place: that costs the same however many there are, and each of the others gets exactly 1/n of what is new. A packet
//! that meets no member, because the rules are just being replaced, gets the element itself.

use std::collections::{BTreeMap, HashMap};

use super::comment::{same_container, same_owner, share_name, with_share};
use super::table::{self, OwnedTable};
use super::waitlist::{Awaited, Waitlist};
use crate::nftables::ruleset::{Chain, Element, Found, Key, SetId, Value, chain, element};
use crate::nftables::wire::{Batch, NftError, Socket, Table};

/// How the elements of a set are shared.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The map of choices, with the same keys as the set.
    pub(crate) choices: &'static str,
    /// The map of members: the same keys with a rank in host byte order behind them.
    pub(crate) members: &'static str,
    /// Followed by the number of members: the chain that takes one of them.
    pub(crate) any_of: &'static str,
    /// The rules of that chain.
    pub(crate) chain: fn(u32) -> Chain,
}

impl Shared {
    /// The number of members that a chain of this name chooses from.
    pub(crate) fn count_in(&self, chain: &str) -> Option<u32> {
        chain.strip_prefix(self.any_of)?.parse().ok().filter(|count| *count > 0)
    }

    fn choice_key(&self, key: &Key) -> Key {
        Key::new(SetId { name: self.choices, ..key.set }, key.bytes.clone())
    }

    fn member_key(&self, key: &Key, rank: usize) -> Key {
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        Key::new(SetId { name: self.members, ..key.set }, [&key.bytes[..], &rank.to_ne_bytes()].concat())
    }

    /// The key of the shared element, in the set `name`, that a choice or a member is about.
    pub(super) fn element_key(&self, key: &Key, name: &'static str) -> Option<Key> {
        let set = SetId { name, ..key.set };
        match key.set.name {
            of if of == self.choices => Some(Key::new(set, key.bytes.clone())),
            of if of == self.members => {
                let (bytes, _rank) = key.bytes.split_at_checked(key.bytes.len().checked_sub(4)?)?;
                Some(Key::new(set, bytes.to_vec()))
            }
            _ => None,
        }
    }
}

/// A shared element as the kernel has it.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    key: Key,
    waitlist: &'static Waitlist,
    awaited: &'static Awaited,
    choice: Option<Found>,
    /// By rank. A gap is one that was deleted by hand.
    members: Vec<Option<Found>>,
}

/// By the key of the shared element.
pub(super) type Shares = HashMap<Key, Share>;

/// Reads these elements' members; those that are not shared are left out. Two requests for each element, and one for each member.
pub(super) fn look_up(socket: &Socket, awaited: &[(&'static Waitlist, Key)]) -> Result<Shares, NftError> {
    let of = |(waitlist, key): &(&'static Waitlist, Key)| {
        Some(Share::none(waitlist, waitlist.awaited(key.set)?, key.clone()))
    };
    let mut shares: Vec<Share> = awaited.iter().filter_map(of).collect();
    let choices: Vec<Key> = shares.iter().map(|share| share.awaited.shared.choice_key(&share.key)).collect();
    let first: Vec<Key> = shares.iter().map(|share| share.member_key(0)).collect();
    let mut choices = element::look_up(socket, choices.iter().chain(&first))?;
    let first = choices.split_off(shares.len());
    for (share, (choice, first)) in shares.iter_mut().zip(choices.into_iter().zip(first)) {
        share.choice = choice;
        share.members.extend(first.map(Some));
    }
    shares.retain(|share| share.choice.is_some() || !share.members.is_empty());
    read_members(socket, &mut shares)?;
    Ok(shares.into_iter().map(|share| (share.key.clone(), share)).collect())
}

/// Reads the members of the choices; of one that was deleted by hand those up to the first gap.
fn read_members(socket: &Socket, shares: &mut [Share]) -> Result<(), NftError> {
    let (mut of_share, mut keys) = (Vec::new(), Vec::new());
    for (n, share) in shares.iter_mut().enumerate().filter(|(_, share)| share.choice.is_some()) {
        share.members.clear();
        keys.extend((0..share.chosen_from()).map(|rank| share.member_key(rank)));
        of_share.resize(keys.len(), n);
    }
    for (n, found) in of_share.into_iter().zip(element::look_up(socket, &keys)?) {
        shares[n].members.push(found);
    }
    for share in shares.iter_mut().filter(|share| share.choice.is_none()) {
        while let Some(found) = element::look_up(socket, &[share.member_key(share.members.len())])?.pop().flatten() {
            share.members.push(Some(found));
        }
    }
    Ok(())
}

/// The members of these shared elements.
pub(crate) fn members(socket: &Socket, tables: &[&'static OwnedTable], keys: &[Key]) -> Result<Vec<Found>, NftError> {
    let shares = look_up(socket, &table::awaited(tables, keys))?;
    Ok(shares.into_values().flat_map(|share| share.members.into_iter().flatten()).collect())
}

/// What an owner needs for being a member.
pub(super) struct Joined {
    pub(super) member: Wanted,
    pub(super) choice: Wanted,
    /// True if the choice belongs to the owner.
    pub(super) owns_choice: bool,
    pub(super) chain: Chain,
}

impl Joined {
    /// The owner's elements, and whether each has its key already.
    pub(super) fn of_owner(&self) -> impl Iterator<Item = (&Element, bool)> {
        let choice = self.owns_choice.then_some(&self.choice).into_iter();
        [&self.member].into_iter().chain(choice).map(|wanted| (&wanted.element, wanted.found.is_some()))
    }
}

/// An element that should be there.
pub(super) struct Wanted {
    pub(super) element: Element,
    /// What is there in its place.
    pub(super) found: Option<Value>,
    /// True if it is there as it should be.
    pub(super) is_there: bool,
}

/// What changes when members leave.
#[derive(Default)]
pub(super) struct Left {
    /// What the leaving owners had.
    pub(super) gone: Vec<Found>,
    /// Elements of others, to be deleted before they are created anew.
    pub(super) replaced: Vec<Key>,
    pub(super) create: Vec<Element>,
    /// The owner that has the choice in addition.
    pub(super) further: Option<String>,
    /// One of the members that remain.
    pub(super) first: Option<Found>,
}

impl Share {
    /// An element without members.
    pub(super) fn none(waitlist: &'static Waitlist, awaited: &'static Awaited, key: Key) -> Self {
        Self { key, waitlist, awaited, choice: None, members: Vec::new() }
    }

    /// How many members there are by its choice.
    fn chosen_from(&self) -> usize {
        let Some(Found { value: Value::Goto(chain), .. }) = &self.choice else { return 0 };
        self.awaited.shared.count_in(chain).and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }

    fn member_key(&self, rank: usize) -> Key {
        self.awaited.shared.member_key(&self.key, rank)
    }

    fn chain(&self, count: usize) -> Chain {
        (self.awaited.shared.chain)(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// True if it is shared as `name`, or if the choice, which would say so, was deleted by hand.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.choice.as_ref().is_none_or(|choice| share_name(&choice.comment) == Some(name))
    }

    /// The comment of a member that another owner has.
    pub(super) fn other_than(&self, comment: &str) -> Option<&str> {
        self.members.iter().flatten().map(|found| found.comment.as_str()).find(|other| !same_owner(other, comment))
    }

    /// True if the owner itself is no member, and another attachment of its container is.
    pub(super) fn has_sibling(&self, comment: &str) -> bool {
        let mut others = self.members.iter().flatten();
        self.rank_of(comment).is_none() && others.any(|found| same_container(&found.comment, comment))
    }

    fn rank_of(&self, comment: &str) -> Option<usize> {
        let is_own = |found: &Option<Found>| found.as_ref().is_some_and(|found| same_owner(&found.comment, comment));
        self.members.iter().position(is_own)
    }

    fn member(&self, rank: usize, value: Value, comment: String) -> Element {
        let name = format!("member {rank} of {}", (self.waitlist.describe)(&self.key));
        Element { key: self.member_key(rank), value, comment, name }
    }

    fn choice(&self, count: usize, comment: String) -> Element {
        let key = self.awaited.shared.choice_key(&self.key);
        let name = format!("choice of a member of {}", (self.waitlist.describe)(&self.key));
        Element { key, value: Value::Goto(self.chain(count).name), comment, name }
    }

    /// What the owner of `element`, which is its target, needs for sharing as `name`: at the rank that it has, or in a gap, or behind all.
    pub(super) fn joined(&self, element: &Element, name: &str) -> Joined {
        let own = self.rank_of(&element.comment);
        let gap = || self.members.iter().position(Option::is_none);
        let rank = own.or_else(gap).unwrap_or(self.members.len());
        let found = own.and_then(|rank| self.members[rank].as_ref()).map(|found| found.value.clone());
        let member = self.member(rank, element.value.clone(), element.comment.clone());
        let count = self.members.len().max(rank + 1);
        let kept = self.choice.as_ref().filter(|choice| share_name(&choice.comment) == Some(name));
        let comment = kept.map_or_else(|| with_share(&element.comment, name), |choice| choice.comment.clone());
        let owns_choice = same_owner(&comment, &element.comment);
        let choice = self.choice(count, comment);
        let is_there = |wanted: &Element, found: Option<&Value>| found == Some(&wanted.value);
        Joined {
            owns_choice,
            chain: self.chain(count),
            member: Wanted { is_there: is_there(&member, found.as_ref()), element: member, found },
            choice: Wanted {
                is_there: is_there(&choice, kept.map(|choice| &choice.value)),
                element: choice,
                found: self.choice.as_ref().map(|choice| choice.value.clone()),
            },
        }
    }

    /// What changes when the owners whose comments satisfy `leaves` are no members any more. `successor`, given the comment of one, is
    /// another attachment of its container that waits.
    pub(super) fn leave(
        &self,
        leaves: &impl Fn(&str) -> bool,
        mut successor: impl FnMut(&str) -> Option<Found>,
    ) -> Left {
        let mut left = Left::default();
        let mut members = self.members.clone();
        for (rank, member) in members.iter_mut().enumerate() {
            let Some(found) = member.take_if(|found| leaves(&found.comment)) else { continue };
            if let Some(next) = successor(&found.comment) {
                left.create.push(self.member(rank, next.value.clone(), next.comment.clone()));
                *member = Some(Found { key: found.key.clone(), ..next });
            }
            left.gone.push(found);
        }
        if left.gone.is_empty() && self.choice.as_ref().is_none_or(|choice| !leaves(&choice.comment)) {
            left.first = members.into_iter().flatten().next();
            return left;
        }
        self.close_gaps(&mut members, &mut left);
        left.first = members.first().cloned().flatten();
        self.choose_anew(members.len(), leaves, &mut left);
        left
    }

    /// Gives the gaps to the members with the highest ranks.
    fn close_gaps(&self, members: &mut Vec<Option<Found>>, left: &mut Left) {
        while let Some(gap) = members.iter().position(Option::is_none) {
            let rank = members.len() - 1;
            let Some(Some(last)) = members.pop() else { continue };
            // A successor may have been put there just now.
            let before = left.create.len();
            left.create.retain(|element| element.key != last.key);
            if left.create.len() == before {
                left.replaced.push(self.member_key(rank));
            }
            left.create.push(self.member(gap, last.value.clone(), last.comment.clone()));
            members[gap] = Some(Found { key: self.member_key(gap), ..last });
        }
    }

    /// The choice from the members that remain.
    fn choose_anew(&self, count: usize, leaves: &impl Fn(&str) -> bool, left: &mut Left) {
        let Some(choice) = &self.choice else { return };
        let is_left = leaves(&choice.comment);
        let Some(first) = left.first.as_ref().filter(|_| count > 0) else {
            return left.gone.push(choice.clone());
        };
        if is_left {
            let name = share_name(&choice.comment).unwrap_or_default();
            left.further = Some(first.comment.clone());
            left.create.push(self.choice(count, with_share(&first.comment, name)));
            left.gone.push(choice.clone());
        } else if count != self.chosen_from() {
            left.replaced.push(choice.key.clone());
            left.create.push(self.choice(count, choice.comment.clone()));
        }
    }
}

/// The chains of choices that a transaction has to make and to delete, besides the elements that lead to them.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// By table and name: what leads there in addition, and what no longer does.
    changes: BTreeMap<(Table<'static>, String), (Chain, i64)>,
}

impl Chains {
    /// Adds those of another change of the same transaction.
    pub(super) fn append(&mut self, other: Self) {
        for (place, (chain, more)) in other.changes {
            self.changes.entry(place).or_insert((chain, 0)).1 += more;
        }
    }

    /// Notes that a choice is created, or with −1 that it is deleted.
    pub(super) fn note(&mut self, share: &Share, value: &Value, more: i64) {
        let Value::Goto(name) = value else { return };
        let Some(count) = share.awaited.shared.count_in(name) else { return };
        let chain = (share.awaited.shared.chain)(count);
        self.changes.entry((share.key.set.table, name.clone())).or_insert((chain, 0)).1 += more;
    }

    /// Notes the choices among what changes in a removal.
    pub(super) fn note_left(&mut self, share: &Share, left: &Left) {
        let choice = share.awaited.shared.choice_key(&share.key);
        let is_gone = left.gone.iter().any(|found| found.key == choice) || left.replaced.contains(&choice);
        if let Some(former) = share.choice.as_ref().filter(|_| is_gone) {
            self.note(share, &former.value, -1);
        }
        if let Some(new) = left.create.iter().find(|element| element.key == choice) {
            self.note(share, &new.value, 1);
        }
    }

    /// Adds the chains that are needed and not there, or empty; to `before`, which the elements follow.
    ///
    /// And to `after` the deletion of those that nothing leads to any more. That is right for this generation of the rule set only.
    pub(super) fn add_to(&self, socket: &Socket, before: &mut Batch, after: &mut Batch) -> Result<(), NftError> {
        for ((table, name), (chain, more)) in &self.changes {
            let uses = chain::uses(socket, *table, name)?;
            let rules = chain::count_rules(socket, *table, name)?;
            let elements = i64::from(uses.unwrap_or(0)) - i64::try_from(rules).unwrap_or(0) + more;
            if elements > 0 && rules < chain.rules.len() {
                chain.declare(*table, before);
                chain.fill(*table, before);
            } else if elements <= 0 && uses.is_some() {
                after.delete_chain(*table, name);
            }
        }
        Ok(())
    }

    /// True if there is none to look after.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::wire::TableFamily;

    const OF: Awaited = Awaited {
        set: "ports",
        padding: 0,
        companions: "conditions",
        shared: Shared {
            choices: "shares",
            members: "members",
            any_of: "any-of-",
            chain: |count| Chain::regular(format!("any-of-{count}"), Vec::new()),
        },
    };
    static WAITLIST: Waitlist =
        Waitlist { set: "claims", awaited: [OF, OF], own_chain: "when-", describe: |_| "port 80".to_owned() };
    const TABLE: Table<'static> = Table { family: TableFamily::Ip, name: "t" };

    fn key() -> Key {
        Key::new(SetId { table: TABLE, name: "ports" }, vec![6, 0, 0, 0, 0, 80, 0, 0])
    }

    fn comment(id: &str) -> String {
        format!("{id}, id: {id}, if: eth0, net: n")
    }

    fn element(id: &str, target: u8) -> Element {
        let name = "port 80".to_owned();
        Element { key: key(), value: Value::Data(vec![10, 0, 0, target]), comment: comment(id), name }
    }

    /// The share of these containers, as the kernel would have it; `-` is a gap.
    fn share(ids: &[&str]) -> Share {
        let mut share = Share::none(&WAITLIST, &WAITLIST.awaited[0], key());
        for (rank, id) in ids.iter().enumerate() {
            let comment = comment(id);
            let value = Value::Data(vec![10, 0, 0, u8::try_from(rank).unwrap()]);
            let found = Found { key: share.member_key(rank), value, comment };
            share.members.push((*id != "-").then_some(found));
        }
        let Element { key, value, .. } = share.choice(ids.len(), String::new());
        share.choice = Some(Found { key, value, comment: with_share(&comment(ids[0]), "web") });
        share
    }

    /// The members after a change, and what the choice is: `a c b, any-of-3 of a`.
    fn after(before: &Share, left: &Left) -> String {
        let mut elements: BTreeMap<Key, (Value, String)> = BTreeMap::new();
        let found = before.members.iter().flatten().chain(&before.choice);
        elements.extend(found.map(|found| (found.key.clone(), (found.value.clone(), found.comment.clone()))));
        for key in left.gone.iter().map(|found| &found.key).chain(&left.replaced) {
            assert!(elements.remove(key).is_some(), "deleted twice, or was not there: {key:?}");
        }
        for Element { key, value, comment, .. } in &left.create {
            assert!(elements.insert(key.clone(), (value.clone(), comment.clone())).is_none(), "created twice: {key:?}");
        }
        let ranks = (0..).map_while(|rank| elements.get(&before.member_key(rank)));
        let ids: Vec<&str> = ranks.map(|(_, comment)| comment.split(',').next().unwrap()).collect();
        let choice = elements.get(&before.awaited.shared.choice_key(&key())).map(|(value, comment)| {
            assert_eq!(share_name(comment), Some("web"));
            let Value::Goto(chain) = value else { panic!("{value:?}") };
            format!(", {chain} of {}", comment.split(',').next().unwrap())
        });
        let all = ids.len() + usize::from(choice.is_some());
        assert_eq!(elements.len(), all, "no gap: {elements:?}");
        ids.join(" ") + &choice.unwrap_or_default()
    }

    fn leave(ids: &[&str], leaving: &[&str]) -> String {
        let share = share(ids);
        let left = share.leave(&|comment: &str| leaving.iter().any(|id| same_owner(comment, id)), |_| None);
        after(&share, &left)
    }

    #[test]
    fn the_last_member_takes_the_place_of_one_that_leaves() {
        assert_eq!(leave(&["a", "b", "c", "d"], &["b"]), "a d c, any-of-3 of a");
        assert_eq!(leave(&["a", "b", "c"], &["c"]), "a b, any-of-2 of a");
        assert_eq!(leave(&["a", "b", "c"], &["a"]), "c b, any-of-2 of c");
        assert_eq!(leave(&["a", "b", "c", "d"], &["a", "c"]), "d b, any-of-2 of d");
        assert_eq!(leave(&["a", "b", "c"], &["b", "c"]), "a, any-of-1 of a");
        assert_eq!(leave(&["a", "b"], &["a", "b"]), "");
        assert_eq!(leave(&["a", "b"], &["x"]), "a b, any-of-2 of a");
        assert_eq!(leave(&["a", "-", "c", "d"], &["c"]), "a d, any-of-2 of a", "a gap is closed too");
        let many: Vec<String> = (0..1000).map(|n| format!("c{n}")).collect();
        let many = share(
            &many.iter().map(String::as_str).map(|id| if id == "c0" { "c0" } else { id }).collect::<Vec<_>>()[..200],
        );
        let left = many.leave(&|comment: &str| same_owner(comment, "c17"), |_| None);
        assert_eq!((left.gone.len(), left.replaced.len(), left.create.len()), (1, 2, 2), "constant");
    }

    #[test]
    fn another_attachment_of_the_container_takes_its_place() {
        let share = share(&["a", "b", "c"]);
        let waits = |id: &str| Found { key: key(), value: Value::Data(vec![10, 9, 9, 9]), comment: comment(id) };
        let is = |id: &'static str| move |comment: &str| same_owner(comment, id);
        let left = share.leave(&is("b"), |_| Some(waits("b2")));
        assert_eq!(after(&share, &left), "a b2 c, any-of-3 of a");
        let last_and_first = |comment: &str| is("a")(comment) || is("c")(comment);
        let left = share.leave(&last_and_first, |comment| is("c")(comment).then(|| waits("c2")));
        assert_eq!(after(&share, &left), "c2 b, any-of-2 of c2", "moved before it was ever created");
    }

    #[test]
    fn an_owner_joins_behind_all_or_in_a_gap_and_once() {
        let joined = |ids: &[&str], id: &str, target: u8| {
            let joined = share(ids).joined(&element(id, target), "web");
            let rank = joined.member.element.key.bytes[8];
            (rank, joined.chain.name, joined.member.is_there, joined.choice.is_there, joined.owns_choice)
        };
        assert_eq!(joined(&["a", "b"], "c", 9), (2, "any-of-3".to_owned(), false, false, false));
        assert_eq!(joined(&["a", "-", "c"], "d", 9), (1, "any-of-3".to_owned(), false, true, false));
        assert_eq!(joined(&["a", "b"], "b", 1), (1, "any-of-2".to_owned(), true, true, false));
        assert_eq!(joined(&["a", "b"], "a", 7), (0, "any-of-2".to_owned(), false, true, true), "another target");
        let first = Share::none(&WAITLIST, &WAITLIST.awaited[0], key()).joined(&element("a", 1), "web");
        assert_eq!((first.chain.name.as_str(), first.owns_choice), ("any-of-1", true));
        assert!(first.member.found.is_none() && first.choice.found.is_none());
        let renamed = share(&["a"]).joined(&element("a", 0), "api");
        assert!(renamed.member.is_there && !renamed.choice.is_there && renamed.choice.found.is_some());
    }

    #[test]
    fn the_parts_of_a_share_know_their_element() {
        let shared = &OF.shared;
        assert_eq!(shared.element_key(&shared.member_key(&key(), 300), "ports"), Some(key()));
        assert_eq!(shared.element_key(&shared.choice_key(&key()), "ports"), Some(key()));
        assert_eq!(shared.element_key(&key(), "ports"), None);
        assert_eq!(
            (shared.count_in("any-of-12"), shared.count_in("any-of-0"), shared.count_in("x")),
            (Some(12), None, None)
        );
    }
}
