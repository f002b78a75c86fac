//! What of a plan is still to be done, from what is there.

use std::collections::HashSet;

use super::claims;
use super::comment::{same_container, same_owner};
use super::element::{self, Element, Found, SetId};
use super::error::NftError;
use super::index::OWNERS;
use super::plan::{Failure, Held, Plan, Registration, Todo};
use super::portkeys;
use super::transport::Socket;

/// What is not yet there, what the same owner has with another value, and what it has beyond the plan.
///
/// What another attachment of the same container has is left to that, and claimed.
pub(super) fn outstanding<'a>(socket: &Socket, plan: &'a Plan) -> Result<Todo<'a>, Failure> {
    let generation = socket.generation()?;
    let mut todo = Todo { create: Vec::new(), further: Vec::new(), ..Todo::everything(plan) };
    let keys = plan.elements.iter().map(|element| (element.set, element.key.as_slice()));
    let found = element::look_up(socket, keys)?;
    let sorted = Sorted::of(plan, found)?;
    for (element, found) in &sorted.own {
        match found {
            Some(found) if found.value == element.value => continue,
            Some(_) => todo.delete.push((element.set, element.key.clone())),
            None => {}
        }
        todo.create.push(element);
    }
    let claims = claims::wanted(socket, &sorted.siblings)?;
    for claim in &claims {
        match &claim.found {
            Some(value) if *value == claim.element.value => continue,
            Some(_) => todo.delete.push((claim.element.set, claim.element.key.clone())),
            None => {}
        }
        // As long as the holder does not go without seeing it.
        todo.generation = Some(generation);
        todo.further.push(claim.element.clone());
    }
    let own = sorted.own.iter().map(|(element, found)| (*element, found.is_some()));
    let own: Vec<_> = own.chain(claims.iter().map(|claim| (&claim.element, claim.found.is_some()))).collect();
    register(socket, plan, &own, generation, &mut todo)?;
    Ok(todo)
}

/// A plan's elements by who has them.
#[derive(Default)]
struct Sorted<'a> {
    /// The owner itself, or nobody.
    own: Vec<(&'a Element, Option<Found>)>,
    /// Ports of another attachment of its container.
    siblings: Vec<&'a Element>,
}

impl<'a> Sorted<'a> {
    /// Fails if anybody else has one.
    fn of(plan: &'a Plan, found: Vec<Option<Found>>) -> Result<Self, Failure> {
        let (mut sorted, mut held, mut left): (Self, Vec<Held>, _) = (Self::default(), Vec::new(), HashSet::new());
        for (element, found) in plan.elements.iter().zip(found) {
            // Conditions come behind the port that they are for, and are left out with it.
            if portkeys::is_condition(element.set) && left.contains(&(element.set.table, &element.key)) {
                continue;
            }
            let Some(other) = found.as_ref().filter(|found| !same_owner(&found.comment, &element.comment)) else {
                sorted.own.push((element, found));
                continue;
            };
            left.insert((element.set.table, &element.key));
            if same_container(&other.comment, &element.comment) {
                sorted.siblings.extend(portkeys::is_port(element.set).then_some(element));
            } else if !held.iter().any(|known| same_owner(&known.comment, &other.comment)) {
                let (thing, table, comment) = (element.name.clone(), element.set.table, other.comment.clone());
                held.push(Held { thing, table, comment });
            }
        }
        if held.is_empty() { Ok(sorted) } else { Err(Failure::Held(held)) }
    }
}

/// Adds what the index lacks, given what of the owners should be there and whether it is, and what they have beyond that.
fn register(
    socket: &Socket,
    plan: &Plan,
    own: &[(&Element, bool)],
    generation: u32,
    todo: &mut Todo<'_>,
) -> Result<(), NftError> {
    let keys = plan.owners.iter().map(|owner| (owner.set, owner.key.as_slice()));
    for (owner, found) in plan.owners.iter().zip(element::look_up(socket, keys)?) {
        let counted = own.iter().filter(|(element, _)| owner.counts(element));
        let (wanted, there) = (counted.clone().count(), counted.filter(|(_, there)| *there).count());
        let entry = owner.element(wanted);
        if found.is_some() || there > 0 {
            // Somebody may be removing just that; but who is not in the index can only be added, with an entry.
            todo.generation = Some(generation);
            if found.as_ref().and_then(Registration::counted) != Some(there) {
                beyond(socket, plan, own, owner, todo)?;
            }
        }
        if let Some(found) = found {
            if found.value == entry.value {
                continue;
            }
            todo.delete.push((owner.set, owner.key.clone()));
        }
        todo.further.push(entry);
    }
    Ok(())
}

/// Deletes what the owner has in the table and should not have. Walks the table. Its ports go to those who wait for them.
fn beyond(
    socket: &Socket,
    plan: &Plan,
    own: &[(&Element, bool)],
    owner: &Registration,
    todo: &mut Todo<'_>,
) -> Result<(), NftError> {
    let wanted: HashSet<(SetId, &[u8])> = own.iter().map(|(e, _)| (e.set, e.key.as_slice())).collect();
    let frames = plan.frames.iter().filter(|frame| frame.table == owner.set.table);
    let (mut seen, mut strange) = (HashSet::new(), Vec::new());
    for (table, name) in frames.flat_map(|frame| frame.sets.iter().map(|set| (frame.table, set.name))) {
        let set = SetId { table, name };
        if name != OWNERS {
            let found = element::dump(socket, set)?.into_iter();
            let found = found.filter(|e| owner.is_of(&e.comment) && !wanted.contains(&(set, e.key.as_slice())));
            strange.extend(found.filter(|found| seen.insert((set, found.key.clone()))).map(|found| (set, found)));
        }
    }
    let keys: Vec<_> = seen.into_iter().collect();
    let withdrawn = claims::succession(socket, &keys, strange, &|comment: &str| owner.is_of(comment))?;
    todo.delete.extend(withdrawn.deleted().map(|(set, key)| (set, key.to_vec())));
    todo.further.extend(withdrawn.create);
    todo.withdrawn.extend(withdrawn.gone);
    Ok(())
}
