//! The packet filter: which backend is chosen, tables that cannot be read, masquerade.

pub(crate) mod backends;
pub(crate) mod masquerade;
pub(crate) mod unreadable;
