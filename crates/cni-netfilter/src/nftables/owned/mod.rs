//! Makes plans so, compares them and removes what an owner has, in tables whose elements carry their owner in the comment. It knows
//! no intent: what it has to know of a table is an [`OwnedTable`].

pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod comment;
mod diff;
pub(crate) mod index;
pub(crate) mod plan;
pub(crate) mod remove;
pub(crate) mod share;
mod table;
mod waitlist;

pub(crate) use plan::{Failure, Held, Plan};
pub(crate) use share::Shared;
pub(crate) use table::OwnedTable;
pub(crate) use waitlist::{Awaited, Waitlist};
