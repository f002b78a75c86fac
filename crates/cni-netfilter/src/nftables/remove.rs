//! Removal by owner: what the index says that an owner has, and for the collection of garbage everything.
//!
//! Whoever deletes elements lowers what the index says of their owners, in the same transaction: an owner that isn't in it
//! has nothing, whatever happens at the same time and whenever we are killed.

use std::collections::HashSet;

use cni_plugin::Owner;
use rustix::io::Errno;

use super::batch::{Batch, GENERATION_CHANGED};
use super::claims;
use super::element::{self, Found, SetId};
use super::error::NftError;
use super::frame::TableId;
use super::index::{self, OWNERS};
use super::transport::Socket;

/// How often a deletion is tried; each attempt takes well under a millisecond.
const DELETE_ATTEMPTS: u32 = 200;
/// Keys that are verified and deleted together: few, so that nobody commits in between.
const DELETE_TOGETHER: usize = 128;

/// Removes everything of `owner` in `tables`, of which `sets` are the sets without the index. What does not exist is
/// fine. Returns what was removed.
///
/// First those of `hints` that are the owner's. A walk through a table is needed only if its index says that there is
/// more than that.
pub(super) fn remove_owner(
    socket: &Socket,
    tables: &[TableId],
    sets: &[SetId],
    hints: &[(SetId, Vec<u8>)],
    owner: &Owner,
) -> Result<Vec<(SetId, Found)>, NftError> {
    // Fails in a way that tells if there is no nf_tables (`NftError::is_absent`).
    socket.generation()?;
    let is_mine = |comment: &str| owner.wrote(comment);
    let mut seen = HashSet::new();
    let keys: Vec<_> = hints.iter().filter(|hint| seen.insert(*hint)).cloned().collect();
    let mut removed = remove_keys(socket, &keys, &is_mine)?;
    for (table, entry) in tables.iter().zip(index::look_up(socket, tables, &owner.comment())?) {
        if entry.is_some() {
            let of_table = sets.iter().copied().filter(|set| set.table == *table);
            let sets: Vec<_> = of_table.chain([SetId { table: *table, name: OWNERS }]).collect();
            removed.extend(remove_walking(socket, &sets, is_mine)?);
        }
    }
    Ok(removed)
}

/// Removes every element of `sets` whose comment satisfies `is_mine`. With the index among `sets`, until that is without
/// them.
pub(super) fn remove_walking(
    socket: &Socket,
    sets: &[SetId],
    is_mine: impl Fn(&str) -> bool,
) -> Result<Vec<(SetId, Found)>, NftError> {
    let (index, sets): (Vec<SetId>, Vec<SetId>) = sets.iter().partition(|set| set.name == OWNERS);
    let mut removed = Vec::new();
    for _ in 0..DELETE_ATTEMPTS {
        // Fails in a way that tells if there is no nf_tables (`NftError::is_absent`).
        let generation = socket.generation()?;
        let keys = walk(socket, &sets, &is_mine)?;
        removed.extend(remove_keys(socket, &keys, &is_mine)?);
        let entries = walk(socket, &index, &is_mine)?;
        if entries.is_empty() {
            return Ok(removed);
        }
        // Of somebody who has nothing, if nothing has been added since: somebody has deleted elements by hand.
        if keys.is_empty() && delete_at(socket, &entries, generation)? {
            return Ok(removed);
        }
    }
    Err(contended())
}

/// The keys of those whose comment satisfies `is_mine`.
fn walk(socket: &Socket, sets: &[SetId], is_mine: &impl Fn(&str) -> bool) -> Result<Vec<(SetId, Vec<u8>)>, NftError> {
    let mut keys = Vec::new();
    for set in sets {
        let found = element::dump(socket, *set)?.into_iter().filter(|found| is_mine(&found.comment));
        let mut of_set: Vec<_> = found.map(|found| found.key).collect();
        of_set.sort_unstable();
        of_set.dedup();
        keys.extend(of_set.into_iter().map(|key| (*set, key)));
    }
    Ok(keys)
}

/// False if somebody has changed the rule set since `generation`.
fn delete_at(socket: &Socket, keys: &[(SetId, Vec<u8>)], generation: u32) -> Result<bool, NftError> {
    let mut batch = Batch::default();
    element::delete(keys.iter().map(|(set, key)| (*set, key.as_slice())), &mut batch);
    commit_at(socket, &batch, generation)
}

fn commit_at(socket: &Socket, batch: &Batch, generation: u32) -> Result<bool, NftError> {
    match socket.commit(batch, Some(generation)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.errno(), Some(GENERATION_CHANGED | Errno::NOENT)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn contended() -> NftError {
    NftError::Contended { what: "delete the rules".into(), attempts: DELETE_ATTEMPTS }
}

/// Looks each key up and deletes it if its comment satisfies `is_mine`. The generation of the rule set makes sure that
/// nobody has put another element in its place in between. A port that another attachment of its container waits for
/// goes to that in the same transaction.
pub(super) fn remove_keys(
    socket: &Socket,
    keys: &[(SetId, Vec<u8>)],
    is_mine: &impl Fn(&str) -> bool,
) -> Result<Vec<(SetId, Found)>, NftError> {
    let mut removed = Vec::new();
    for together in keys.chunks(DELETE_TOGETHER) {
        removed.extend(remove_few(socket, together, is_mine)?);
    }
    Ok(removed)
}

fn remove_few(
    socket: &Socket,
    keys: &[(SetId, Vec<u8>)],
    is_mine: &impl Fn(&str) -> bool,
) -> Result<Vec<(SetId, Found)>, NftError> {
    for _ in 0..DELETE_ATTEMPTS {
        let generation = socket.generation()?;
        let found = element::look_up(socket, keys.iter().map(|(set, key)| (*set, key.as_slice())))?;
        let mine: Vec<_> = keys
            .iter()
            .zip(found)
            .filter_map(|((set, _), found)| found.filter(|found| is_mine(&found.comment)).map(|found| (*set, found)))
            .collect();
        let mut change = claims::succession(socket, keys, mine, is_mine)?;
        let entries = index::shrunk(socket, &change.gone)?;
        change.replaced.extend(entries.replaced);
        change.create.extend(entries.create);
        let mut batch = Batch::default();
        element::delete(change.deleted(), &mut batch);
        element::create(&change.create, &mut batch);
        if commit_at(socket, &batch, generation)? {
            return Ok(change.gone);
        }
    }
    Err(contended())
}
