//! Netlink with nf_tables: a socket, a batch of changes as one transaction, answers and errors. It knows no rules.

mod answer;
pub(crate) mod attribute;
mod batch;
mod error;
mod socket;
mod table;

pub(crate) use answer::Raw;
#[cfg(any(test, fuzzing))]
pub(crate) use answer::{Body, answers};
pub(crate) use attribute::part;
pub(crate) use batch::{Batch, GENERATION_CHANGED};
pub use error::NftError;
pub(crate) use socket::Socket;
pub(crate) use table::Table;
pub use table::TableFamily;
