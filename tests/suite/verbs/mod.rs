//! What each verb does over whole chains, and for each plugin.

pub(crate) mod check;
pub(crate) mod del;
pub(crate) mod gc;
pub(crate) mod rollback;
pub(crate) mod status;
pub(crate) mod upgrade;
