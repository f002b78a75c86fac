//! JSON as the Go plugins read and write it: keys in any letter case, null as absent, markup characters escaped.
//!
//! Text becomes a [`Value`] in `parse` and the value becomes a plugin's type in `decode`: the one decoder of all plugins.

mod decode;
pub(crate) mod duplicate;
mod parse;
mod write;

use serde_json::{Map, Value};

pub(crate) use decode::decode_without_wrong_keys;
pub use decode::{DecodeError, decode};
pub use parse::parse;
pub(crate) use write::pretty;

/// Looks `key` up in an object in any letter case; an exact match wins, null counts as absent.
pub(crate) fn get<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    object
        .get(key)
        .or_else(|| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value))
        .filter(|value| !value.is_null())
}
