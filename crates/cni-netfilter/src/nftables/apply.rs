//! Makes a plan so: what is missing is created, in one transaction.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use rustix::io::Errno;

use super::batch::Batch;
use super::chains;
use super::element::{self, Element, SetId, Value};
use super::error::{NftError, container, holder};
use super::frame::{Chain, Frame, TableId};
use super::index::{OWNERS, Registration};
use super::portkeys;
use super::transport::Socket;

/// How often an addition is tried while others change the same things.
const ADD_ATTEMPTS: u32 = 8;
/// Up to so many elements are asked for before they are created.
const ASKED_FIRST: usize = 64;

/// What should be there.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Whole tables, created if something in them is missing.
    pub(super) frames: Vec<Frame>,
    /// Chains that several owners share, created if missing.
    pub(super) chains: Vec<(TableId, Chain)>,
    /// Chains of a single owner, whose rules are made these and no others.
    pub(super) own_chains: Vec<(TableId, Chain)>,
    pub(super) elements: Vec<Element>,
    /// The owners of `elements`, for the index.
    pub(super) owners: Vec<Registration>,
}

impl Plan {
    /// Drops elements that are there twice; two different values for one key are a contradiction.
    pub(super) fn deduplicate(&mut self) -> Result<(), NftError> {
        let mut seen: HashMap<(SetId, Vec<u8>), Value> = HashMap::new();
        let mut twice = None;
        self.elements.retain(|element| match seen.entry((element.set, element.key.clone())) {
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
}

/// Somebody else has what a plan wants.
#[derive(Debug)]
pub(super) struct Held {
    /// What it is.
    pub(super) thing: String,
    /// Where.
    pub(super) table: TableId,
    /// The comment of the holder's element.
    pub(super) comment: String,
}

/// Why a plan could not be carried out.
#[derive(Debug)]
pub(super) enum Failure {
    /// At least one of these.
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
                held.into_iter().next().map_or(Self::Contended { what: "add the rules".into(), attempts: 1 }, |held| {
                    Self::HeldBy { thing: held.thing, holder: holder(&held.comment) }
                })
            }
        }
    }
}

/// What of a plan's shared part is not there.
#[derive(Default)]
struct Missing<'a> {
    frames: Vec<&'a Frame>,
    chains: Vec<&'a (TableId, Chain)>,
}

/// What of a plan has to be sent.
struct Todo<'a> {
    missing: Missing<'a>,
    own_chains: &'a [(TableId, Chain)],
    create: Vec<&'a Element>,
    register: Vec<Element>,
    /// Elements of the same owner that have another value or are no longer wanted, to be deleted first.
    delete: Vec<(SetId, Vec<u8>)>,
}

impl<'a> Todo<'a> {
    /// On the assumption that of the owners nothing is there.
    fn everything(plan: &'a Plan) -> Self {
        let count = |owner: &Registration| plan.elements.iter().filter(|element| owner.counts(element)).count();
        Self {
            missing: Missing::default(),
            own_chains: &plan.own_chains,
            create: plan.elements.iter().collect(),
            register: plan.owners.iter().map(|owner| owner.element(count(owner))).collect(),
            delete: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        let frame = self.missing.frames.is_empty() && self.missing.chains.is_empty() && self.own_chains.is_empty();
        frame && self.create.is_empty() && self.register.is_empty() && self.delete.is_empty()
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        for frame in &self.missing.frames {
            frame.install(&mut batch);
        }
        for (table, chain) in self.missing.chains.iter().copied().chain(self.own_chains) {
            chain.declare(*table, &mut batch);
            chain.fill(*table, &mut batch);
        }
        element::delete(self.delete.iter().map(|(set, key)| (*set, key.as_slice())), &mut batch);
        element::create(self.create.iter().copied().chain(&self.register), &mut batch);
        batch
    }
}

/// Makes the plan so, in one transaction. Idempotent.
///
/// Declaring a base chain again waits for RCU (10–20 ms), and so does a transaction that fails. So questions go first,
/// which take microseconds each: about tables, chains and, unless there are many, elements, which may be there already.
pub(super) fn apply(socket: &Socket, plan: &Plan) -> Result<(), Failure> {
    let few = plan.elements.len() <= ASKED_FIRST;
    let todo = if few { outstanding(socket, plan)? } else { Todo::everything(plan) };
    let mut todo = Todo { missing: missing(socket, plan)?, ..todo };
    if todo.is_empty() {
        return Ok(());
    }
    for _ in 0..ADD_ATTEMPTS {
        let Err(error) = socket.commit(&todo.batch(), None) else { return Ok(()) };
        match error.errno() {
            Some(Errno::NOENT) => {
                todo = Todo { missing: missing(socket, plan)?, ..outstanding(socket, plan)? };
            }
            Some(Errno::EXIST | Errno::BUSY) => {
                todo = Todo { missing: todo.missing, ..outstanding(socket, plan)? };
            }
            _ => return Err(error.into()),
        }
    }
    Err(NftError::Contended { what: "add the rules".into(), attempts: ADD_ATTEMPTS }.into())
}

/// The frames of which a set or chain is missing or a chain has been emptied, and the chains that are.
fn missing<'a>(socket: &Socket, plan: &'a Plan) -> Result<Missing<'a>, NftError> {
    let mut questions: Vec<_> = plan.frames.iter().flat_map(Frame::questions).collect();
    questions.extend(plan.chains.iter().map(|(table, chain)| Chain::question(*table, &chain.name)));
    let mut answers = socket.ask_raw("look for a chain", questions)?.into_iter();
    let mut missing = Missing::default();
    for frame in &plan.frames {
        let mut gone = false;
        // In the order of [`Frame::questions`].
        for chain in &frame.chains {
            gone |= answers.next().map_or(Ok(true), |answer| chains::lacks_rules(answer, chain))?;
        }
        for answer in answers.by_ref().take(frame.sets.len()) {
            gone |= absent(answer)?;
        }
        if gone {
            missing.frames.push(frame);
        }
    }
    for (chain, answer) in plan.chains.iter().zip(answers) {
        if chains::lacks_rules(answer, &chain.1)? {
            missing.chains.push(chain);
        }
    }
    Ok(missing)
}

/// True if the kernel says that there is no such thing.
pub(super) fn absent<T>(answer: Result<T, NftError>) -> Result<bool, NftError> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What is not yet there, what the same owner has with another value, and what it has beyond the plan.
///
/// What another attachment of the same container has is left to that: runtimes pass the ports to each of a container's
/// networks, and the first one serves.
fn outstanding<'a>(socket: &Socket, plan: &'a Plan) -> Result<Todo<'a>, Failure> {
    let mut todo = Todo { create: Vec::new(), register: Vec::new(), ..Todo::everything(plan) };
    let (mut own, mut held): (Vec<(&Element, bool)>, Vec<Held>) = Default::default();
    let keys = plan.elements.iter().map(|element| (element.set, element.key.as_slice()));
    let mut left = HashSet::new();
    for (element, found) in plan.elements.iter().zip(element::look_up(socket, keys)?) {
        if portkeys::is_condition(element.set) && left.contains(&(element.set.table, &element.key)) {
            continue;
        }
        match found {
            Some(found) if !same_owner(&found.comment, &element.comment) => {
                let is_known = held.iter().any(|known| same_owner(&known.comment, &found.comment));
                if !is_known && !same_container(&found.comment, &element.comment) {
                    let (thing, table) = (element.name.clone(), element.set.table);
                    held.push(Held { thing, table, comment: found.comment });
                }
                // Conditions come behind the port that they are for, and are left out with it.
                left.insert((element.set.table, &element.key));
            }
            Some(found) => {
                own.push((element, true));
                if found.value != element.value {
                    todo.delete.push((element.set, element.key.clone()));
                    todo.create.push(element);
                }
            }
            None => {
                own.push((element, false));
                todo.create.push(element);
            }
        }
    }
    if !held.is_empty() {
        return Err(Failure::Held(held));
    }
    let keys = plan.owners.iter().map(|owner| (owner.set, owner.key.as_slice()));
    for (owner, found) in plan.owners.iter().zip(element::look_up(socket, keys)?) {
        let counted = own.iter().filter(|(element, _)| owner.counts(element));
        let (wanted, there) = (counted.clone().count(), counted.filter(|(_, there)| *there).count());
        let entry = owner.element(wanted);
        if let Some(found) = found {
            if Registration::counted(&found) != Some(there) {
                todo.delete.extend(beyond(socket, plan, owner)?);
            }
            if found.value == entry.value {
                continue;
            }
            todo.delete.push((owner.set, owner.key.clone()));
        }
        todo.register.push(entry);
    }
    Ok(todo)
}

/// The keys of what the owner has in the table and the plan lacks. Walks the table.
fn beyond(socket: &Socket, plan: &Plan, owner: &Registration) -> Result<HashSet<(SetId, Vec<u8>)>, NftError> {
    let wanted: HashSet<(SetId, &[u8])> = plan.elements.iter().map(|e| (e.set, e.key.as_slice())).collect();
    let frames = plan.frames.iter().filter(|frame| frame.table == owner.set.table);
    let mut keys = HashSet::new();
    for (table, set) in frames.flat_map(|frame| frame.sets.iter().map(|set| (frame.table, set.name))) {
        let set = SetId { table, name: set };
        if set.name != OWNERS {
            let found = element::dump(socket, set)?.into_iter();
            let strange = found.filter(|e| owner.is_of(&e.comment) && !wanted.contains(&(set, e.key.as_slice())));
            keys.extend(strange.map(|found| (set, found.key)));
        }
    }
    Ok(keys)
}

/// True if both comments begin with the same owner's key.
pub(super) fn same_owner(one: &str, other: &str) -> bool {
    one.split(',').next() == other.split(',').next()
}

/// True if both comments name the same container, in full.
pub(super) fn same_container(one: &str, other: &str) -> bool {
    container(one).is_some_and(|id| container(other) == Some(id))
}
