//! What the specification (SPEC.md) defines, as types: names, versions, verbs, the environment, the configuration, results and
//! errors. Nothing here has a side effect.

pub mod addr;
pub(crate) mod args;
pub(crate) mod config;
pub(crate) mod difference;
pub(crate) mod env;
pub(crate) mod error;
pub mod json;
pub(crate) mod keys;
pub(crate) mod names;
pub(crate) mod owner;
pub(crate) mod result;
pub(crate) mod transport;

pub(crate) mod verb;
pub(crate) mod version;
