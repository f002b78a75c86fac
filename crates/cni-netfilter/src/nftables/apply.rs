//! Makes a plan so: what is missing is created, in one transaction.

use rustix::io::Errno;

use super::batch::{Batch, GENERATION_CHANGED};
use super::element::{self, Found, SetId};
use super::error::NftError;
use super::frame::{Chain, Frame, TableId};
use super::outstanding::outstanding;
use super::plan::{Failure, Missing, Plan, Todo};
use super::transport::Socket;
use super::{chains, check};

/// How often an addition is tried while others change the same things.
const ADD_ATTEMPTS: u32 = 8;
/// How often if it must be done before anybody else has changed anything.
const GENERATION_ATTEMPTS: u32 = 200;
/// Up to so many elements are asked for before they are created.
const ASKED_FIRST: usize = 64;

impl Todo<'_> {
    fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        for frame in &self.missing.frames {
            frame.install(&mut batch);
        }
        let shared = self.missing.chains.iter().copied().chain(&self.missing.others);
        for (table, chain) in shared.chain(self.own_chains) {
            chain.declare(*table, &mut batch);
            chain.fill(*table, &mut batch);
        }
        element::delete(self.delete.iter().map(|(set, key)| (*set, key.as_slice())), &mut batch);
        element::create(self.create.iter().copied().chain(&self.further), &mut batch);
        batch
    }
}

/// Makes the plan so, in one transaction. Idempotent. Returns what its owners had and no longer want.
///
/// Declaring a base chain again waits for RCU (10–20 ms), and so does a transaction that fails. So questions go first,
/// which take microseconds each: about tables, chains and, unless there are many, elements, which may be there already.
pub(super) fn apply(socket: &Socket, plan: &Plan) -> Result<Vec<(SetId, Found)>, Failure> {
    let few = plan.elements.len() <= ASKED_FIRST;
    let todo = if few { outstanding(socket, plan)? } else { Todo::everything(plan) };
    let mut todo = Todo { missing: missing_of_awake(socket, plan)?, ..todo };
    if todo.is_empty() {
        return Ok(Vec::new());
    }
    let (mut attempts, mut waits) = (ADD_ATTEMPTS, GENERATION_ATTEMPTS);
    while attempts > 0 && waits > 0 {
        let Err(error) = socket.commit(&todo.batch(), todo.generation) else { return Ok(todo.withdrawn) };
        match error.errno() {
            Some(GENERATION_CHANGED) => {
                waits -= 1;
                todo = Todo { missing: todo.missing, ..outstanding(socket, plan)? };
                continue;
            }
            Some(Errno::NOENT) => {
                todo = Todo { missing: missing_of_awake(socket, plan)?, ..outstanding(socket, plan)? };
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

/// [`missing`], when no table of the plan is dormant any more: the kernel would ask it nothing.
fn missing_of_awake<'a>(socket: &Socket, plan: &'a Plan) -> Result<Missing<'a>, NftError> {
    let missing = missing(socket, plan)?;
    let mut batch = Batch::default();
    missing.dormant.iter().for_each(|table| table.wake(&mut batch));
    if !batch.is_empty() {
        socket.commit(&batch, None)?;
    }
    Ok(missing)
}

/// The frames of which a set or chain is missing or a chain has been emptied, the chains that are, and dormant tables.
fn missing<'a>(socket: &Socket, plan: &'a Plan) -> Result<Missing<'a>, NftError> {
    let mut questions: Vec<_> = plan.frames.iter().flat_map(Frame::questions).collect();
    questions.extend(plan.chains.iter().map(|(table, chain)| Chain::question(*table, &chain.name)));
    let mut answers = socket.ask_raw("look for a chain", questions)?.into_iter();
    let mut missing = Missing::default();
    for frame in &plan.frames {
        let mut gone = false;
        // In the order of [`Frame::questions`].
        if let Some(Ok(table)) = answers.next()
            && check::is_dormant(&table.decode("look for a table")?)
        {
            missing.dormant.push(frame.table);
        }
        for chain in &frame.chains {
            gone |= answers.next().map_or(Ok(true), |answer| chains::lacks_rules(frame.table, answer, chain))?;
        }
        for (set, answer) in frame.sets.iter().zip(answers.by_ref()) {
            gone |= check::lacks_set(frame.table, set, answer)?;
        }
        for chain in &frame.chains {
            gone = gone || chains::is_emptied(socket, frame.table, chain)?;
        }
        if gone {
            missing.frames.push(frame);
            missing.others.extend(others(socket, plan, frame)?);
        }
    }
    for (place, answer) in plan.chains.iter().zip(answers) {
        let (table, chain) = place;
        if chains::lacks_rules(*table, answer, chain)? || chains::is_emptied(socket, *table, chain)? {
            missing.chains.push(place);
        }
    }
    Ok(missing)
}

/// Fails if something in the frame's table has the name of ours and is something else.
pub(super) fn refuse_foreign(socket: &Socket, frame: Frame) -> Result<(), NftError> {
    missing(socket, &Plan { frames: vec![frame], ..Plan::default() }).map(drop)
}

/// The chains of a frame's table that aren't in the plan and whose name tells what should be in them.
fn others(socket: &Socket, plan: &Plan, frame: &Frame) -> Result<Vec<(TableId, Chain)>, NftError> {
    let is_planned =
        |name: &String| plan.chains.iter().any(|(table, chain)| *table == frame.table && chain.name == *name);
    let names = chains::chains_with(socket, frame.table, "")?.into_iter().filter(|name| !is_planned(name));
    Ok(names.filter_map(|name| (frame.by_name)(&name)).map(|chain| (frame.table, chain)).collect())
}
