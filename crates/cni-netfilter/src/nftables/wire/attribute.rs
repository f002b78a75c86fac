//! Netlink attributes: decoded ones, and such that are read without the decoder of `netlink-packet-netfilter`, which takes 100 ms for a thousand rules and formats a
//! whole list of elements once for each element. Kinds are the numbers of `linux/netfilter/nf_tables.h`.

use netlink_packet_core::NLA_TYPE_MASK;

/// The value of the first of decoded attributes that is of this kind: `part!(rule.attributes, RuleAttribute::Chain)`.
macro_rules! part {
    ($attributes:expr, $kind:path) => {
        $attributes.iter().find_map(|part| if let $kind(value) = part { Some(value) } else { None })
    };
}
pub(crate) use part;

/// The values of all attributes of this kind.
pub(crate) fn all(attributes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    let mut rest = attributes;
    std::iter::from_fn(move || {
        loop {
            let [a, b, c, d, ..] = *rest else { return None };
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let found = u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if found == kind {
                return Some(value);
            }
        }
    })
}

/// The value of the first attribute of this kind.
pub(crate) fn first(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    all(attributes, kind).next()
}

/// The first attribute of this kind as text.
pub(crate) fn text(attributes: &[u8], kind: u16) -> Option<String> {
    first(attributes, kind).map(|bytes| c_string(bytes).to_owned())
}

/// The first attribute of this kind as a number in network byte order.
pub(crate) fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    first(attributes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

/// The value in an attribute that holds a `NFTA_DATA_VALUE`.
pub(crate) fn data(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    first(first(attributes, kind)?, 1)
}

/// Name and attributes of each expression of a rule.
pub(crate) fn expressions(rule: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    // NFTA_RULE_EXPRESSIONS, NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA
    all(rule, 4).flat_map(|list| all(list, 1)).map(|expression| {
        (first(expression, 1).map(c_string).unwrap_or_default(), first(expression, 2).unwrap_or_default())
    })
}

/// The text before the first zero byte; empty if that isn't UTF-8.
pub(crate) fn c_string(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}
