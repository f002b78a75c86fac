//! Removal by owner: what the index says that an owner has, and for the collection of garbage everything.
//!
//! A deletion of elements lowers what the index says of their owners in the same transaction: an owner that isn't in it has nothing,
//! whatever happens at the same time and whenever the process is killed.

use std::collections::HashSet;

use cni_plugin::Owner;
use rustix::io::Errno;

use super::table::{self, OwnedTable};
use super::{index, waitlist};
use crate::nftables::ruleset::{Found, Key, SetId, Value, element};
use crate::nftables::wire::{Batch, GENERATION_CHANGED, NftError, Socket, Table};

/// How often a deletion is tried; each attempt takes well under a millisecond.
const ATTEMPTS: u32 = 200;
/// Keys that are verified and deleted together: few, so that no other program commits in between.
const TOGETHER: usize = 128;

/// Removes everything of `owner` in `tables`. Idempotent. Returns what was removed.
///
/// First those of `hints` that are the owner's. A table is read as a whole only if its index says that there is more than that.
pub(crate) fn of_owner(
    socket: &Socket,
    tables: &[&'static OwnedTable],
    hints: &[Key],
    owner: &Owner,
) -> Result<Vec<Found>, NftError> {
    let is_own = |comment: &str| owner.wrote(comment);
    let mut seen = HashSet::new();
    let hints: Vec<_> = hints.iter().filter(|hint| seen.insert(*hint)).cloned().collect();
    if hints.is_empty() {
        // Fails with `NftError::is_absent` where the kernel has no nf_tables. With hints the removal asks the same.
        socket.generation()?;
    }
    let mut removed = keys(socket, tables, &hints, &is_own)?;
    let entries = index::look_up(socket, tables.iter().map(|table| table.table), &owner.comment())?;
    for (table, _) in tables.iter().zip(entries).filter(|(_, entry)| entry.is_some()) {
        removed.extend(matching(socket, &[table], is_own)?);
    }
    Ok(removed)
}

/// Removes every element of `tables` whose comment satisfies `matches`, until their indexes have no such owner either.
pub(crate) fn matching(
    socket: &Socket,
    tables: &[&'static OwnedTable],
    matches: impl Fn(&str) -> bool,
) -> Result<Vec<Found>, NftError> {
    let sets: Vec<SetId> = tables.iter().flat_map(|table| table.set_ids()).collect();
    let indexes: Vec<SetId> = tables.iter().map(|table| index::set_id(table.table)).collect();
    let mut removed = Vec::new();
    for _ in 0..ATTEMPTS {
        // Fails with `NftError::is_absent` where the kernel has no nf_tables.
        let generation = socket.generation()?;
        let found = scan(socket, &sets, &matches)?;
        removed.extend(keys(socket, tables, &found, &matches)?);
        let entries = scan(socket, &indexes, &matches)?;
        if entries.is_empty() {
            return Ok(removed);
        }
        // Entries of owners that have nothing, if nothing has been added since: their elements were deleted by hand.
        if found.is_empty() {
            let mut batch = Batch::default();
            batch.delete_elements(&entries);
            if commit_at(socket, &batch, generation)? {
                return Ok(removed);
            }
        }
    }
    Err(contended())
}

/// The keys of the elements whose comment satisfies `matches`.
fn scan(socket: &Socket, sets: &[SetId], matches: &impl Fn(&str) -> bool) -> Result<Vec<Key>, NftError> {
    let mut keys = Vec::new();
    for set in sets {
        let found = element::dump(socket, *set)?.into_iter().filter(|found| matches(&found.comment));
        let mut of_set: Vec<Key> = found.map(|found| found.key).collect();
        of_set.sort_unstable();
        of_set.dedup();
        keys.extend(of_set);
    }
    Ok(keys)
}

/// Looks each key up and deletes the element if its comment satisfies `matches`. The generation of the rule set makes sure that no
/// other element has replaced it in between. If another attachment of the container waits for an element, the same transaction
/// transfers it to that attachment.
pub(crate) fn keys(
    socket: &Socket,
    tables: &[&'static OwnedTable],
    keys: &[Key],
    matches: &impl Fn(&str) -> bool,
) -> Result<Vec<Found>, NftError> {
    let mut removed = Vec::new();
    for together in keys.chunks(TOGETHER) {
        removed.extend(few_keys(socket, tables, together, matches)?);
    }
    Ok(removed)
}

fn few_keys(
    socket: &Socket,
    tables: &[&'static OwnedTable],
    keys: &[Key],
    matches: &impl Fn(&str) -> bool,
) -> Result<Vec<Found>, NftError> {
    let awaited = table::awaited(tables, keys);
    for _ in 0..ATTEMPTS {
        let generation = socket.generation()?;
        let found = element::look_up(socket, keys)?.into_iter().flatten();
        let released = found.filter(|found| matches(&found.comment)).collect();
        let change = waitlist::succession(socket, &awaited, released, matches)?;
        let fewer = change.gone.iter().map(|found| (found.key.set.table, found.comment.as_str(), -1));
        let further = change.further.iter().map(|(table, comment)| (*table, comment.as_str(), 1));
        let entries = index::recount(socket, fewer.chain(further))?;
        let (mut batch, mut after) = (Batch::default(), Batch::default());
        change.chains.add_to(socket, &mut batch, &mut after)?;
        batch.delete_elements(change.deleted().chain(&entries.replaced));
        batch.create_elements(change.create.iter().chain(&entries.create));
        batch.append(after);
        if commit_at(socket, &batch, generation)? {
            return Ok(change.gone);
        }
    }
    Err(contended())
}

/// False if another program has changed the rule set since `generation`.
fn commit_at(socket: &Socket, batch: &Batch, generation: u32) -> Result<bool, NftError> {
    match socket.commit(batch, Some(generation)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.errno(), Some(GENERATION_CHANGED | Errno::NOENT)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn contended() -> NftError {
    NftError::Contended { what: "delete the rules".into(), attempts: ATTEMPTS }
}

/// The chains of `table` that removed elements led to, each once.
pub(crate) fn targets(removed: &[Found], table: Table<'_>) -> Vec<String> {
    let chain = |found: &Found| match &found.value {
        Value::Goto(chain) if found.key.set.table == table => Some(chain.clone()),
        _ => None,
    };
    let mut chains: Vec<String> = removed.iter().filter_map(chain).collect();
    chains.sort_unstable();
    chains.dedup();
    chains
}
