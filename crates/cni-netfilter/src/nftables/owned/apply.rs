//! Makes a plan so: what is missing is created, in one transaction.

use rustix::io::Errno;

use super::diff::{Missing, Todo, missing};
use super::plan::{Failure, Plan};
use crate::nftables::ruleset::{Found, Skeleton};
use crate::nftables::wire::{Batch, GENERATION_CHANGED, NftError, Socket};

/// How often an addition is tried while other programs change the same things.
const ADD_ATTEMPTS: u32 = 8;
/// How often if it must be done before any other program has changed anything.
const GENERATION_ATTEMPTS: u32 = 200;
/// Up to so many elements are asked for before they are created.
const ASKED_FIRST: usize = 64;

/// Makes the plan so, in one transaction. Idempotent. Returns what its owners had and no longer want.
///
/// Declaring a base chain again waits for RCU (10–20 ms), and so does a transaction that fails. So requests go first,
/// which take microseconds each: about tables, chains and, unless there are many, elements, which may be there already.
pub(crate) fn apply(socket: &Socket, plan: &Plan) -> Result<Vec<Found>, Failure> {
    let few = plan.elements.len() <= ASKED_FIRST || !plan.shares.is_empty();
    let todo = if few { Todo::outstanding(socket, plan)? } else { Todo::everything(plan) };
    let mut todo = Todo { missing: missing_of_awake(socket, plan)?, ..todo };
    if todo.is_empty() {
        return Ok(Vec::new());
    }
    let (mut attempts, mut waits) = (ADD_ATTEMPTS, GENERATION_ATTEMPTS);
    while attempts > 0 && waits > 0 {
        let Err(error) = socket.commit(&todo.batch(socket)?, todo.generation) else { return Ok(todo.withdrawn) };
        let missing = match error.errno() {
            Some(GENERATION_CHANGED) => {
                waits -= 1;
                attempts += 1;
                todo.missing
            }
            Some(Errno::NOENT) => missing_of_awake(socket, plan)?,
            Some(Errno::EXIST | Errno::BUSY) => todo.missing,
            _ => return Err(error.into()),
        };
        attempts -= 1;
        todo = Todo { missing, ..Todo::outstanding(socket, plan)? };
    }
    Err(NftError::Contended { what: "add the rules".into(), attempts: ADD_ATTEMPTS }.into())
}

/// [`missing`], once no table of the plan is dormant.
fn missing_of_awake<'a>(socket: &Socket, plan: &'a Plan) -> Result<Missing<'a>, NftError> {
    let missing = missing(socket, plan)?;
    let mut batch = Batch::default();
    missing.dormant.iter().for_each(|table| table.wake(&mut batch));
    socket.commit(&batch, None)?;
    Ok(missing)
}

/// Fails if a set or chain in the skeleton's table has the name of one of its own and is something else.
pub(crate) fn refuse_foreign(socket: &Socket, skeleton: Skeleton) -> Result<(), NftError> {
    missing(socket, &Plan::new(skeleton, Vec::new())).map(drop)
}

/// Lets the kernel check tables and rules, and throws them away again. Nothing changes; modules may get loaded.
pub(crate) fn rehearse<'a>(socket: &Socket, skeletons: impl IntoIterator<Item = &'a Skeleton>) -> Result<(), NftError> {
    let mut batch = Batch::default();
    skeletons.into_iter().for_each(|skeleton| skeleton.install(&mut batch));
    socket.rehearse(&batch)
}
