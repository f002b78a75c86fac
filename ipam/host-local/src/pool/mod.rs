//! The addresses of a network: which there are, and which comes next. Pure.

pub(crate) mod address;
pub(crate) mod allocator;
pub(crate) mod range;

pub(crate) use address::Address;
pub(crate) use range::{Range, RangeSet};
