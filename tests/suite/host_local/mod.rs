//! host-local: which address a container gets, and what is kept about it on disk.

pub(crate) mod addresses;
pub(crate) mod ranges;
pub(crate) mod reservations;
