//! The difference between a plan and the kernel's rule set: the changes that are still to be made.

use std::collections::HashSet;

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::NfTablesMessage;
use rustix::io::Errno;

use super::comment::same_owner;
use super::index::{self, Entry};
use super::plan::{Failure, Held, Holder, Plan, Registration};
use super::share::{self, Chains, Joined, Share, Shares};
use super::table;
use super::waitlist::{self, Waitlist};
use crate::nftables::ruleset::skeleton::is_dormant;
use crate::nftables::ruleset::{Chain, Element, Found, Key, Set, Skeleton, Value, chain, element};
use crate::nftables::wire::{Batch, NftError, Socket, Table};

/// What of a plan has to be sent.
pub(super) struct Todo<'a> {
    pub(super) missing: Missing<'a>,
    pub(super) own_chains: &'a [(Table<'static>, Chain)],
    pub(super) create: Vec<&'a Element>,
    /// Entries of the index and of waitlists, members and choices.
    pub(super) entries: Vec<Element>,
    /// Elements of the same owner that have another value or are no longer wanted, to be deleted first.
    pub(super) delete: Vec<Key>,
    /// The chains of choices.
    pub(super) chains: Chains,
    /// What of `delete` the owners no longer want.
    pub(super) withdrawn: Vec<Found>,
    /// The generation of the rule set for which this holds, if it does not hold for all.
    pub(super) generation: Option<u32>,
}

impl<'a> Todo<'a> {
    /// On the assumption that of the owners nothing is there.
    pub(super) fn everything(plan: &'a Plan) -> Self {
        Self { create: plan.elements.iter().collect(), entries: plan.entries().collect(), ..Self::of(plan) }
    }

    fn of(plan: &'a Plan) -> Self {
        Self {
            missing: Missing::default(),
            own_chains: &plan.own_chains,
            create: Vec::new(),
            entries: Vec::new(),
            delete: Vec::new(),
            chains: Chains::default(),
            withdrawn: Vec::new(),
            generation: None,
        }
    }

    /// What is not yet there, what the same owner has with another value, and what it has beyond the plan. For what another attachment
    /// of the same container has, an entry in the waitlist.
    ///
    /// # Errors
    /// [`Failure::Held`] names what other containers have.
    pub(super) fn outstanding(socket: &Socket, plan: &'a Plan) -> Result<Self, Failure> {
        let generation = socket.generation()?;
        let mut todo = Self::of(plan);
        let keys = plan.elements.iter().map(|element| &element.key).chain(plan.owners.iter().map(|owner| &owner.key));
        let mut found = element::look_up(socket, keys)?;
        let entries = found.split_off(plan.elements.len());
        let shares = share::look_up(socket, &plan.maybe_shared(&found))?;
        let Sorted { own, shared, awaited } = sort(plan, found, &shares)?;
        for (element, found) in &own {
            if todo.lacks(element, found.as_ref().map(|found| &found.value)) {
                todo.create.push(element);
            }
        }
        let wanted = waitlist::wanted(socket, &awaited)?;
        for wanted in &wanted {
            if todo.lacks(&wanted.entry, wanted.found.as_ref()) {
                // As long as the holder does not go without seeing it.
                todo.generation = Some(generation);
                todo.entries.push(wanted.entry.clone());
            }
        }
        shared.iter().for_each(|(share, joined)| todo.join(share, joined, generation));
        let own = own.iter().map(|(element, found)| (*element, found.is_some()));
        let own = own.chain(wanted.iter().map(|wanted| (&wanted.entry, wanted.found.is_some())));
        let own: Vec<_> = own.chain(shared.iter().flat_map(|(_, joined)| joined.of_owner())).collect();
        for (owner, found) in plan.owners.iter().zip(entries) {
            todo.register(socket, owner, found.as_ref(), &own, generation)?;
        }
        Ok(todo)
    }

    /// True if an element has to be created, given what has its key. One with another value is deleted first.
    fn lacks(&mut self, wanted: &Element, found: Option<&Value>) -> bool {
        let is_there = found == Some(&wanted.value);
        if found.is_some() && !is_there {
            self.delete.push(wanted.key.clone());
        }
        !is_there
    }

    /// Makes the owner a member, as long as no other one joins or leaves.
    fn join(&mut self, share: &Share, joined: &Joined, generation: u32) {
        let Joined { member, choice, .. } = joined;
        for wanted in [member, choice].into_iter().filter(|wanted| !wanted.is_there) {
            self.generation = Some(generation);
            self.delete.extend(wanted.found.as_ref().map(|_| wanted.element.key.clone()));
            self.entries.push(wanted.element.clone());
        }
        // Also where it is already there: its rules may be gone.
        self.chains.note(share, &choice.element.value, i64::from(!choice.is_there));
        if let Some(former) = choice.found.as_ref().filter(|_| !choice.is_there) {
            self.chains.note(share, former, -1);
        }
    }

    /// Adds what the index lacks, given what of the owners should be there and whether it is, and deletes what they have beyond that.
    fn register(
        &mut self,
        socket: &Socket,
        owner: &Registration,
        found: Option<&Found>,
        own: &[(&Element, bool)],
        generation: u32,
    ) -> Result<(), NftError> {
        let counted = own.iter().filter(|(element, _)| owner.counts(element));
        let (wanted, there) = (counted.clone().count(), counted.filter(|(_, there)| *there).count());
        let entry = owner.entry(wanted);
        if found.is_some() || there > 0 {
            // Another process may be removing just that. An owner that is not in the index can only be added, with an entry.
            self.generation = Some(generation);
            let counted = found.and_then(Entry::read).and_then(|entry| usize::try_from(entry.elements).ok());
            if counted != Some(there) {
                self.withdraw(socket, owner, own)?;
            }
        }
        if self.lacks(&entry, found.map(|found| &found.value)) {
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Deletes what the owner has in the table and should not have. Reads the whole table. Who waits for one of the elements gets it.
    fn withdraw(&mut self, socket: &Socket, owner: &Registration, own: &[(&Element, bool)]) -> Result<(), NftError> {
        let wanted: HashSet<&Key> = own.iter().map(|(element, _)| &element.key).collect();
        let is_of_owner = |comment: &str| same_owner(comment, &owner.comment);
        let (mut seen, mut surplus) = (HashSet::new(), Vec::new());
        for set in owner.table.set_ids() {
            let found = element::dump(socket, set)?.into_iter();
            let found = found.filter(|found| is_of_owner(&found.comment) && !wanted.contains(&found.key));
            surplus.extend(found.filter(|found| seen.insert(found.key.clone())));
        }
        let keys: Vec<_> = seen.into_iter().collect();
        let awaited = table::awaited(&[owner.table], &keys);
        let mut withdrawn = waitlist::succession(socket, &awaited, surplus, &is_of_owner)?;
        self.chains.append(std::mem::take(&mut withdrawn.chains));
        let further = withdrawn.further.iter().map(|(table, comment)| (*table, comment.as_str(), 1));
        let recounted = index::recount(socket, further)?;
        self.delete.extend(withdrawn.deleted().cloned());
        self.delete.extend(recounted.replaced);
        self.entries.append(&mut withdrawn.create);
        self.entries.extend(recounted.create);
        self.withdrawn.append(&mut withdrawn.gone);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        let skeleton = self.missing.skeletons.is_empty() && self.missing.shared_chains.is_empty();
        let elements = self.create.is_empty() && self.entries.is_empty() && self.delete.is_empty();
        skeleton && self.own_chains.is_empty() && self.chains.is_empty() && elements
    }

    /// # Errors
    /// If the kernel can't be asked for chains.
    pub(super) fn batch(&self, socket: &Socket) -> Result<Batch, NftError> {
        let mut batch = Batch::default();
        for skeleton in &self.missing.skeletons {
            skeleton.install(&mut batch);
        }
        let shared = self.missing.shared_chains.iter().copied().chain(&self.missing.by_name);
        for (table, chain) in shared.chain(self.own_chains) {
            chain.declare(*table, &mut batch);
            chain.fill(*table, &mut batch);
        }
        let mut after = Batch::default();
        self.chains.add_to(socket, &mut batch, &mut after)?;
        batch.delete_elements(&self.delete);
        batch.create_elements(self.create.iter().copied().chain(&self.entries));
        batch.append(after);
        Ok(batch)
    }
}

/// A plan's elements.
#[derive(Default)]
struct Sorted<'a> {
    /// Those that their owner has or that don't exist.
    own: Vec<(&'a Element, Option<Found>)>,
    /// The shares that their owner is to be a member of.
    shared: Vec<(Share, Joined)>,
    /// Those that the owner has to wait for.
    awaited: Vec<(&'a Waitlist, &'a Element)>,
}

/// Fails if another container has one of a plan's elements.
fn sort<'a>(plan: &'a Plan, found: Vec<Option<Found>>, shares: &Shares) -> Result<Sorted<'a>, Failure> {
    let (mut sorted, mut held) = (Sorted::default(), Vec::<Held>::new());
    let Sorted { own, shared, awaited } = &mut sorted;
    for (element, holder) in plan.by_holder(found, shares) {
        if matches!(holder, Holder::Own(_) | Holder::Partner)
            && let Some((share, name)) = plan.share_of(element, shares)
        {
            let joined = share.joined(element, name);
            shared.push((share, joined));
        }
        match holder {
            Holder::Own(found) => own.push((element, found)),
            Holder::Sibling(waitlist) => awaited.extend(waitlist.map(|waitlist| (waitlist, element))),
            Holder::Other(comment) if held.iter().all(|known| !same_owner(&known.comment, &comment)) => {
                held.push(Held { thing: element.name.clone(), table: element.key.set.table, comment });
            }
            Holder::Other(_) | Holder::OfCompanion | Holder::Partner => {}
        }
    }
    if held.is_empty() { Ok(sorted) } else { Err(Failure::Held(held)) }
}

/// What of a plan's shared part is not there.
#[derive(Default)]
pub(super) struct Missing<'a> {
    pub(super) skeletons: Vec<&'a Skeleton>,
    pub(super) shared_chains: Vec<&'a (Table<'static>, Chain)>,
    /// Chains of others, in tables whose skeleton is missing: what emptied the skeleton has emptied these too.
    pub(super) by_name: Vec<(Table<'static>, Chain)>,
    /// Tables of the plan that the kernel keeps and does not use.
    pub(super) dormant: Vec<Table<'static>>,
}

/// The skeletons of which a set or chain is missing or a chain has been emptied, the chains that are, and dormant tables.
///
/// # Errors
/// [`NftError::Foreign`] if a set or chain has the name of the plan's and is something else.
pub(super) fn missing<'a>(socket: &Socket, plan: &'a Plan) -> Result<Missing<'a>, NftError> {
    let mut requests: Vec<_> = plan.skeletons.iter().flat_map(Skeleton::requests).collect();
    requests.extend(plan.shared_chains.iter().map(|(table, chain)| table.chain_request(&chain.name)));
    let mut answers = socket.ask("look for a chain", requests)?.into_iter().map(found);
    let mut next = || answers.next().unwrap_or(Ok(None));
    let mut missing = Missing::default();
    for skeleton in &plan.skeletons {
        // In the order of [`Skeleton::requests`].
        missing.dormant.extend(next()?.filter(is_dormant).map(|_| skeleton.table));
        let mut lacks = false;
        for set in &skeleton.sets {
            lacks |= lacks_set(skeleton.table, set, next()?)?;
        }
        for chain in &skeleton.chains {
            lacks |= lacks_chain(skeleton.table, chain, next()?)?;
        }
        for chain in &skeleton.chains {
            lacks = lacks || chain.is_emptied(socket, skeleton.table)?;
        }
        if lacks {
            missing.skeletons.push(skeleton);
            missing.by_name.extend(by_name(socket, plan, skeleton)?);
        }
    }
    for place in &plan.shared_chains {
        let (table, chain) = place;
        if lacks_chain(*table, chain, next()?)? || chain.is_emptied(socket, *table)? {
            missing.shared_chains.push(place);
        }
    }
    Ok(missing)
}

/// What was asked for; `None` if there is no such thing.
pub(super) fn found(answer: Result<NetfilterMessageInner, NftError>) -> Result<Option<NfTablesMessage>, NftError> {
    match answer {
        Ok(NetfilterMessageInner::NfTables(found)) => Ok(Some(found)),
        Err(error) if error.errno() != Some(Errno::NOENT) => Err(error),
        _ => Ok(None),
    }
}

fn lacks_set(table: Table<'_>, set: &Set, found: Option<NfTablesMessage>) -> Result<bool, NftError> {
    match found {
        Some(NfTablesMessage::NewSet(listed)) if !set.is_like(&listed) => Err(NftError::Foreign {
            thing: format!("set {table} {}", set.name),
            expected: "the type of this plugin, without a size or timeouts".to_owned(),
            found: "another".to_owned(),
        }),
        found => Ok(found.is_none()),
    }
}

fn lacks_chain(table: Table<'_>, chain: &Chain, found: Option<NfTablesMessage>) -> Result<bool, NftError> {
    let Some(NfTablesMessage::NewChain(listed)) = found else { return Ok(found.is_none()) };
    match (chain.base, chain.misplaced(&listed)) {
        (Some(base), Some(found)) => {
            let thing = format!("chain {table} {}", chain.name);
            Err(NftError::Foreign { thing, expected: base.to_string(), found })
        }
        _ => Ok(chain.lacks_rules(&listed)),
    }
}

/// The chains of a skeleton's table that aren't in the plan and whose name says what should be in them.
fn by_name(socket: &Socket, plan: &Plan, skeleton: &Skeleton) -> Result<Vec<(Table<'static>, Chain)>, NftError> {
    let table = skeleton.table;
    let is_planned = |name: &String| plan.shared_chains.iter().any(|(of, chain)| *of == table && chain.name == *name);
    let names = chain::starting_with(socket, table, "")?.into_iter().filter(|name| !is_planned(name));
    Ok(names.filter_map(|name| (skeleton.by_name)(&name)).map(|chain| (table, chain)).collect())
}
