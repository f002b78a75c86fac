//! The objects of a rule set as data: tables with sets and chains, elements and rules. Each becomes the messages that create it,
//! compares itself with what the kernel lists, and prints itself in nft's own language.

pub(crate) mod chain;
pub(crate) mod data;
pub(crate) mod element;
pub(crate) mod expression;
pub(crate) mod print;
pub(crate) mod rule;
pub(crate) mod set;
pub(crate) mod skeleton;
mod text;
pub(crate) mod user_data;

pub(crate) use chain::Chain;
pub(crate) use data::DataType;
pub(crate) use element::{Element, Found, Key, SetId, Value};
pub(crate) use rule::Rule;
pub(crate) use set::{Maps, Set};
pub(crate) use skeleton::Skeleton;
