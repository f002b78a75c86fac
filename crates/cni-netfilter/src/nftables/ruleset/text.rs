//! Data in the words of the nft language.

use std::fmt::Write;

use cni_plugin::Protocol;

use super::data::{self, DataType};

/// The types of a concatenation.
pub(super) fn type_names(types: &[DataType]) -> String {
    types.iter().map(|part| part.name()).collect::<Vec<_>>().join(" . ")
}

/// Expressions of these types, concatenated.
pub(super) fn expressions(types: &[DataType]) -> String {
    types.iter().map(|part| part.expression().unwrap_or_else(|| part.name())).collect::<Vec<_>>().join(" . ")
}

/// The bytes of a key or value, each part padded to whole registers.
pub(super) fn concatenation(types: &[DataType], bytes: &[u8]) -> String {
    let mut rest = bytes;
    let parts = types.iter().map(|part| {
        let (own, more) = rest.split_at(rest.len().min(part.length().into()));
        rest = more;
        match part {
            DataType::Address(_) => address(own),
            DataType::Ethernet => own.iter().take(6).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
            DataType::Protocol => protocol(own),
            DataType::Port => big_endian(own.get(..2).unwrap_or(own)).to_string(),
            DataType::Interface => interface(own),
            DataType::Number => host_order(own).to_string(),
            DataType::Mark => format!("{:#010x}", host_order(own)),
        }
    });
    parts.collect::<Vec<_>>().join(" . ")
}

pub(super) fn address(bytes: &[u8]) -> String {
    data::read_address(bytes).map_or_else(|| hexadecimal(bytes), |address| address.to_string())
}

pub(super) fn protocol(bytes: &[u8]) -> String {
    let protocol = bytes.first().and_then(|number| Protocol::from_number(*number));
    protocol.map_or_else(|| hexadecimal(bytes), |protocol| protocol.name().to_owned())
}

/// A whole name is padded with zeros to 16 bytes; a shorter one is the beginning of names.
pub(super) fn interface(bytes: &[u8]) -> String {
    let name = String::from_utf8_lossy(bytes);
    let star = if bytes.len() < 16 { "*" } else { "" };
    format!("\"{}{star}\"", name.trim_end_matches('\0'))
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A number in the machine's byte order.
pub(super) fn host_order(bytes: &[u8]) -> u32 {
    <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes)
}
