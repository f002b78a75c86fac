//! The protocol, asked of every plugin: its input, its output and its errors.

pub(crate) mod bad_input;
pub(crate) mod bad_keys;
pub(crate) mod call;
pub(crate) mod delegation;
pub(crate) mod life;
pub(crate) mod versions;
