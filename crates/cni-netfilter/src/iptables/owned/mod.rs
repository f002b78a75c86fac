//! What attachments have in a table: chains of their own, entries that lead there, and a skeleton that all share. Generic:
//! plans, compares and removes, and knows no intent.
//!
//! A plan is a [`Table`](super::tool::Table) that was read, and the changes that were made to it.

mod apply;
mod chain;
mod check;
mod names;
mod remove;
mod skeleton;

pub(super) use apply::{add, again, change, plan, try_change};
pub(super) use chain::OwnedChain;
pub(super) use check::{additions, check};
pub(super) use names::{ChainKind, link_of, owner_comment, owner_key};
pub(super) use remove::{remove, retain, take_back, take_back_in};
pub(super) use skeleton::Skeleton;
