//! System calls that fail, resources that run out, waits: nothing is left behind, and the error says why.

pub(crate) mod exhausted;
pub(crate) mod syscalls;
pub(crate) mod waits;
