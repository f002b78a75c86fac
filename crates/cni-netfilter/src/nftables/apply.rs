//! Makes a plan so: what is missing is created, in one transaction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rustix::io::Errno;

use super::batch::{Batch, GENERATION_CHANGED};
use super::chains;
use super::element::{self, Element, SetId, Value};
use super::error::{NftError, container, holder};
use super::frame::{Chain, Frame, TableId};
use super::index::Registration;
use super::outstanding::outstanding;
use super::transport::Socket;

/// How often an addition is tried while others change the same things.
const ADD_ATTEMPTS: u32 = 8;
/// How often if it must be done before anybody else has changed anything.
const GENERATION_ATTEMPTS: u32 = 200;
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
pub(super) struct Missing<'a> {
    frames: Vec<&'a Frame>,
    chains: Vec<&'a (TableId, Chain)>,
}

/// What of a plan has to be sent.
pub(super) struct Todo<'a> {
    pub(super) missing: Missing<'a>,
    pub(super) own_chains: &'a [(TableId, Chain)],
    pub(super) create: Vec<&'a Element>,
    /// Entries of the index, and claims.
    pub(super) further: Vec<Element>,
    /// Elements of the same owner that have another value or are no longer wanted, to be deleted first.
    pub(super) delete: Vec<(SetId, Vec<u8>)>,
    /// The generation of the rule set for which this holds, if it does not hold for all.
    pub(super) generation: Option<u32>,
}

impl<'a> Todo<'a> {
    /// On the assumption that of the owners nothing is there.
    pub(super) fn everything(plan: &'a Plan) -> Self {
        let count = |owner: &Registration| plan.elements.iter().filter(|element| owner.counts(element)).count();
        Self {
            missing: Missing::default(),
            own_chains: &plan.own_chains,
            create: plan.elements.iter().collect(),
            further: plan.owners.iter().map(|owner| owner.element(count(owner))).collect(),
            delete: Vec::new(),
            generation: None,
        }
    }

    fn is_empty(&self) -> bool {
        let frame = self.missing.frames.is_empty() && self.missing.chains.is_empty() && self.own_chains.is_empty();
        frame && self.create.is_empty() && self.further.is_empty() && self.delete.is_empty()
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
        element::create(self.create.iter().copied().chain(&self.further), &mut batch);
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
    let (mut attempts, mut waits) = (ADD_ATTEMPTS, GENERATION_ATTEMPTS);
    while attempts > 0 && waits > 0 {
        let Err(error) = socket.commit(&todo.batch(), todo.generation) else { return Ok(()) };
        match error.errno() {
            Some(GENERATION_CHANGED) => {
                waits -= 1;
                todo = Todo { missing: todo.missing, ..outstanding(socket, plan)? };
                continue;
            }
            Some(Errno::NOENT) => {
                todo = Todo { missing: missing(socket, plan)?, ..outstanding(socket, plan)? };
            }
            Some(Errno::EXIST | Errno::BUSY) => {
                todo = Todo { missing: todo.missing, ..outstanding(socket, plan)? };
            }
            _ => return Err(error.into()),
        }
        attempts -= 1;
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

/// True if both comments begin with the same owner's key.
pub(super) fn same_owner(one: &str, other: &str) -> bool {
    one.split(',').next() == other.split(',').next()
}

/// True if both comments name the same container, in full.
pub(super) fn same_container(one: &str, other: &str) -> bool {
    container(one).is_some_and(|id| container(other) == Some(id))
}
