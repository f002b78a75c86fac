//! Removal by owner: what the index says that an owner has, and for the collection of garbage everything.

use std::collections::HashSet;

use cni_plugin::Owner;
use rustix::io::Errno;

use super::batch::{Batch, GENERATION_CHANGED};
use super::claims;
use super::element::{self, Found, SetId};
use super::error::NftError;
use super::frame::TableId;
use super::index::{self, OWNERS};
use super::portframe::CLAIMS;
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
    let comment = owner.comment();
    let entries = index::look_up(socket, tables, &comment)?;
    let index = index::keys(tables, &comment);
    let mut seen = HashSet::new();
    let mut keys: Vec<_> = hints.iter().filter(|hint| seen.insert(*hint)).cloned().collect();
    // The index goes with the last of what it counts: if we are killed, the rest is still found.
    let hinted: HashSet<TableId> = keys.iter().map(|(set, _)| set.table).collect();
    let known = index.iter().zip(&entries).filter(|((set, _), entry)| entry.is_some() && hinted.contains(&set.table));
    let known: Vec<_> = known.map(|(key, _)| key.clone()).collect();
    keys.extend(known);
    let is_mine = |comment: &str| owner.wrote(comment);
    let mut removed = remove_keys(socket, &keys, &is_mine)?;
    for ((table, entry), key) in tables.iter().zip(&entries).zip(index) {
        let Some(entry) = entry else { continue };
        let of_table = removed.iter().filter(|(set, _)| set.table == *table && set.name != OWNERS).count();
        if usize::try_from(entry.elements).is_ok_and(|there| of_table >= there) && hinted.contains(table) {
            continue;
        }
        let sets: Vec<_> = sets.iter().filter(|set| set.table == *table).copied().collect();
        removed.extend(remove_walking(socket, &sets, is_mine)?);
        removed.extend(remove_keys(socket, &[key], &is_mine)?);
    }
    Ok(removed)
}

/// Removes every element of `sets` whose comment satisfies `is_mine`.
pub(super) fn remove_walking(
    socket: &Socket,
    sets: &[SetId],
    is_mine: impl Fn(&str) -> bool,
) -> Result<Vec<(SetId, Found)>, NftError> {
    // Fails in a way that tells if there is no nf_tables (`NftError::is_absent`).
    socket.generation()?;
    let mut keys = Vec::new();
    for set in sets {
        let mut of_set: Vec<_> = element::dump(socket, *set)?
            .into_iter()
            .filter(|found| is_mine(&found.comment))
            .map(|found| found.key)
            .collect();
        of_set.sort_unstable();
        of_set.dedup();
        keys.extend(of_set.into_iter().map(|key| (*set, key)));
    }
    remove_keys(socket, &keys, &is_mine)
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
        let succession = claims::succession(socket, keys, &mine, is_mine)?;
        // Those are among what it says is gone.
        let mine: Vec<_> = mine.into_iter().filter(|(set, _)| set.name != CLAIMS).chain(succession.gone).collect();
        let mut batch = Batch::default();
        let replaced = succession.replaced.iter().map(|(set, key)| (*set, key.as_slice()));
        element::delete(mine.iter().map(|(set, found)| (*set, found.key.as_slice())).chain(replaced), &mut batch);
        element::create(&succession.create, &mut batch);
        match socket.commit(&batch, Some(generation)) {
            Ok(()) => return Ok(mine),
            Err(error) if matches!(error.errno(), Some(GENERATION_CHANGED | Errno::NOENT)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NftError::Contended { what: "delete the rules".into(), attempts: DELETE_ATTEMPTS })
}
