//! The two ways of changing the rule set: make a plan so, and remove what an owner has.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, NfTablesMessage};
use rustix::io::Errno;

use super::batch::{Batch, GENERATION_CHANGED};
use super::element::{self, Element, Found, SetId, Value};
use super::error::{NftError, holder};
use super::frame::{Chain, Frame, TableId};
use super::transport::Socket;

/// How often an addition is tried while others change the same things.
const ADD_ATTEMPTS: u32 = 8;
/// How often a deletion is tried; each attempt takes well under a millisecond.
const DELETE_ATTEMPTS: u32 = 200;
/// Keys that are verified and deleted together: few, so that nobody commits in between.
const DELETE_TOGETHER: usize = 128;
/// Up to so many elements are asked for before they are created.
const ASKED_FIRST: usize = 64;

/// What should be there.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Whole tables, created if something in them is missing.
    pub(super) frames: Vec<Frame>,
    /// Chains that several owners share, created if missing.
    pub(super) chains: Vec<(TableId, Chain)>,
    pub(super) elements: Vec<Element>,
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

/// What of a plan's shared part is not there.
#[derive(Default)]
struct Missing<'a> {
    frames: Vec<&'a Frame>,
    chains: Vec<&'a (TableId, Chain)>,
}

/// What of a plan has to be sent.
struct Todo<'a> {
    missing: Missing<'a>,
    create: Vec<&'a Element>,
    /// Elements of the same owner with another value, to be deleted first.
    replace: Vec<&'a Element>,
}

impl Todo<'_> {
    fn is_empty(&self) -> bool {
        self.missing.frames.is_empty() && self.missing.chains.is_empty() && self.create.is_empty()
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        for frame in &self.missing.frames {
            frame.install(&mut batch);
        }
        for (table, chain) in &self.missing.chains {
            chain.declare(*table, &mut batch);
            chain.fill(*table, &mut batch);
        }
        element::delete(self.replace.iter().map(|element| (element.set, element.key.as_slice())), &mut batch);
        element::create(self.create.iter().copied(), &mut batch);
        batch
    }
}

/// Makes the plan so, in one transaction. Idempotent.
///
/// Declaring a base chain again waits for RCU (10–20 ms), and so does a transaction that fails. So questions go first,
/// which take microseconds each: about tables, chains and, unless there are many, elements, which may be there already.
pub(super) fn apply(socket: &Socket, plan: &Plan) -> Result<(), NftError> {
    let mut todo =
        Todo { missing: missing(socket, plan)?, create: plan.elements.iter().collect(), replace: Vec::new() };
    if plan.elements.len() <= ASKED_FIRST {
        (todo.create, todo.replace) = outstanding(socket, plan)?;
    }
    if todo.is_empty() {
        return Ok(());
    }
    for _ in 0..ADD_ATTEMPTS {
        let Err(error) = socket.commit(&todo.batch(), None) else { return Ok(()) };
        match error.errno() {
            Some(Errno::NOENT) => {
                todo.missing = missing(socket, plan)?;
                (todo.create, todo.replace) = outstanding(socket, plan)?;
            }
            Some(Errno::EXIST | Errno::BUSY) => {
                (todo.create, todo.replace) = outstanding(socket, plan)?;
            }
            _ => return Err(error),
        }
    }
    Err(NftError::Contended { what: "add the rules".into(), attempts: ADD_ATTEMPTS })
}

/// The frames of which a set or chain is missing, and the chains that are.
fn missing<'a>(socket: &Socket, plan: &'a Plan) -> Result<Missing<'a>, NftError> {
    let mut questions: Vec<_> = plan.frames.iter().flat_map(Frame::questions).collect();
    questions.extend(plan.chains.iter().map(|(table, chain)| Chain::question(*table, &chain.name)));
    let mut answers = socket.ask_raw("look for a chain", questions)?.into_iter();
    let mut missing = Missing::default();
    for frame in &plan.frames {
        let mut gone = false;
        for answer in answers.by_ref().take(frame.chains.len() + frame.sets.len()) {
            gone |= absent(answer)?;
        }
        if gone {
            missing.frames.push(frame);
        }
    }
    for (chain, answer) in plan.chains.iter().zip(answers) {
        if absent(answer)? {
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

/// The elements that are not yet there, and those that are there for the same owner with another value.
fn outstanding<'a>(socket: &Socket, plan: &'a Plan) -> Result<(Vec<&'a Element>, Vec<&'a Element>), NftError> {
    let keys = plan.elements.iter().map(|element| (element.set, element.key.as_slice()));
    let (mut create, mut replace) = (Vec::new(), Vec::new());
    for (element, found) in plan.elements.iter().zip(element::look_up(socket, keys)?) {
        match found {
            None => create.push(element),
            Some(found) if !same_owner(&found.comment, &element.comment) => {
                return Err(NftError::HeldBy { thing: element.name.clone(), holder: holder(&found.comment) });
            }
            Some(found) if found.value == element.value => {}
            Some(_) => {
                replace.push(element);
                create.push(element);
            }
        }
    }
    Ok((create, replace))
}

/// True if both comments begin with the same owner's key.
pub(super) fn same_owner(one: &str, other: &str) -> bool {
    one.split(',').next() == other.split(',').next()
}

/// Removes those elements of `hints` whose comment satisfies `is_mine`. If that is not all of them, or if there are no
/// hints, walks through all of `sets`. What does not exist is fine. Returns what was removed.
pub(super) fn remove(
    socket: &Socket,
    sets: &[SetId],
    hints: &[(SetId, Vec<u8>)],
    is_mine: impl Fn(&str) -> bool,
) -> Result<Vec<(SetId, Found)>, NftError> {
    let mut seen = HashSet::new();
    let hints: Vec<_> = hints.iter().filter(|hint| seen.insert(*hint)).cloned().collect();
    let mut removed = remove_keys(socket, &hints, &is_mine)?;
    if hints.is_empty() || removed.len() < hints.len() {
        removed.extend(remove_walking(socket, sets, is_mine)?);
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
/// nobody has put another element in its place in between.
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
        let mut batch = Batch::default();
        element::delete(mine.iter().map(|(set, found)| (*set, found.key.as_slice())), &mut batch);
        match socket.commit(&batch, Some(generation)) {
            Ok(()) => return Ok(mine),
            Err(error) if matches!(error.errno(), Some(GENERATION_CHANGED | Errno::NOENT)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NftError::Contended { what: "delete the rules".into(), attempts: DELETE_ATTEMPTS })
}

/// Deletes those of the chains `names` that no element leads to any more: whose use count is not above the number of
/// their own rules. Somebody who adds an element at the same time wins (`EBUSY`), so this can only ever do too little.
pub(super) fn delete_unused(socket: &Socket, table: TableId, names: &[String], own_rules: u32) -> Result<(), NftError> {
    let questions = names.iter().map(|name| Chain::question(table, name)).collect();
    for (name, answer) in names.iter().zip(socket.ask("look for a chain", questions)?) {
        let Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain))) = answer else { continue };
        let used = chain.attributes.iter().find_map(|a| if let ChainAttribute::Use(n) = a { Some(*n) } else { None });
        if used.is_none_or(|used| used > own_rules) {
            continue;
        }
        let attributes = vec![ChainAttribute::Table(table.name.to_owned()), ChainAttribute::Name(name.clone())];
        let mut batch = Batch::default();
        let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
        batch.push(format!("delete chain {table} {name}"), table.family.number(), 0, message);
        match socket.commit(&batch, None) {
            Err(error) if !matches!(error.errno(), Some(Errno::BUSY | Errno::NOENT)) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// How many rules are in a chain and lead to it; `None` if there is no such chain.
pub(super) fn uses(socket: &Socket, table: TableId, chain: &str) -> Result<Option<u32>, NftError> {
    let question = vec![Chain::question(table, chain)];
    match socket.ask("look for a chain", question)?.pop() {
        Some(Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)))) => Ok(Some(
            chain
                .attributes
                .iter()
                .find_map(|a| if let ChainAttribute::Use(n) = a { Some(*n) } else { None })
                .unwrap_or(0),
        )),
        Some(Err(error)) if error.errno() != Some(Errno::NOENT) => Err(error),
        _ => Ok(None),
    }
}

/// The names of all chains of `table` that begin with `prefix`.
pub(super) fn chains_with(socket: &Socket, table: TableId, prefix: &str) -> Result<Vec<String>, NftError> {
    let question = table.question(NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }));
    let mut names = Vec::new();
    socket.dump(&format!("list the chains of {table}"), &question, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.decode("a list of chains")?
        else {
            return Ok(());
        };
        let mut ours = false;
        let mut name = None;
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(of) => ours = of == table.name,
                ChainAttribute::Name(text) => name = Some(text),
                _ => {}
            }
        }
        names.extend(name.filter(|name| ours && name.starts_with(prefix)));
        Ok(())
    })?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
