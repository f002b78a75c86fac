//! libnftnl's user data: comments, and what `nft` needs to print a set. Entries of type, length and value.

use cni_plugin::Family;

use super::DataType;

/// `NFTNL_UDATA_…_COMMENT`, the same number for tables, chains, rules and elements.
const COMMENT: u8 = 0;
/// `NFTNL_UDATA_SET_KEYBYTEORDER`, `NFTNL_UDATA_SET_DATABYTEORDER`, `NFTNL_UDATA_SET_COMMENT`.
const SET_KEY_ORDER: u8 = 0;
const SET_DATA_ORDER: u8 = 1;
const SET_COMMENT: u8 = 7;
/// `NFTNL_UDATA_SET_KEY_TYPEOF`, `NFTNL_UDATA_SET_DATA_TYPEOF`.
const SET_KEY_TYPEOF: u8 = 3;
const SET_DATA_TYPEOF: u8 = 4;
/// `NFTNL_UDATA_SET_TYPEOF_EXPR`, `NFTNL_UDATA_SET_TYPEOF_DATA`.
const TYPEOF_EXPRESSION: u8 = 0;
const TYPEOF_DATA: u8 = 1;

fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![kind, length];
    bytes.extend_from_slice(&value[..usize::from(length)]);
    bytes
}

fn text(kind: u8, text: &str) -> Vec<u8> {
    entry(kind, &[text.as_bytes(), &[0]].concat())
}

/// What `nft list` shows as the comment of a table, chain, rule or element.
pub(crate) fn comment(comment: &str) -> Vec<u8> {
    text(COMMENT, comment)
}

/// The comment in the user data of a rule or element; nothing if it has none.
pub(crate) fn read_comment(user_data: &[u8]) -> Option<String> {
    let mut rest = user_data;
    while let [kind, length, more @ ..] = rest {
        let value = more.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = &more[value.len()..];
    }
    None
}

/// The byte orders of a set's key and value, without which `nft` cannot print them, and its comment.
pub(super) fn of_set(key_order: u32, value_order: Option<u32>, comment: &str) -> Vec<u8> {
    let mut bytes = entry(SET_KEY_ORDER, &key_order.to_ne_bytes());
    bytes.extend(value_order.map(|order| entry(SET_DATA_ORDER, &order.to_ne_bytes())).unwrap_or_default());
    bytes.extend(text(SET_COMMENT, comment));
    bytes
}

/// The expressions that a set's key and value are typed by (`typeof`).
pub(super) fn of_expressions(key: &[DataType], value: &[DataType]) -> Vec<u8> {
    [entry(SET_KEY_TYPEOF, &concatenation(key)), entry(SET_DATA_TYPEOF, &concatenation(value))].concat()
}

/// An expression with its kind, a number of `enum expr_types` in nft's sources (include/expression.h).
fn expression(kind: u32, data: &[u8]) -> Vec<u8> {
    [entry(TYPEOF_EXPRESSION, &kind.to_ne_bytes()), entry(TYPEOF_DATA, data)].concat()
}

fn concatenation(types: &[DataType]) -> Vec<u8> {
    const CONCATENATION: u32 = 13;
    let parts = (0..).zip(types).flat_map(|(index, part)| entry(index, &typeof_part(*part)));
    expression(CONCATENATION, &parts.collect::<Vec<_>>())
}

/// The expression of [`DataType::expression`]; empty if that has none.
fn typeof_part(part: DataType) -> Vec<u8> {
    const PAYLOAD: u32 = 7;
    const META: u32 = 9;
    const NUMGEN: u32 = 23;
    // PROTO_DESC_TH and THDR_DPORT, PROTO_DESC_IP and IPHDR_DADDR, PROTO_DESC_IP6 and IP6HDR_DADDR (include/proto.h);
    // NFT_META_L4PROTO; NFT_NG_RANDOM, the modulus and the offset.
    let (kind, numbers): (u32, &[u32]) = match part {
        DataType::Port => (PAYLOAD, &[11, 2]),
        DataType::Address(Family::V4) => (PAYLOAD, &[12, 12]),
        DataType::Address(Family::V6) => (PAYLOAD, &[13, 9]),
        DataType::Protocol => (META, &[16]),
        DataType::Number => (NUMGEN, &[1, 2, 0]),
        DataType::Ethernet | DataType::Interface | DataType::Mark => return Vec::new(),
    };
    let numbers = (0..).zip(numbers).flat_map(|(index, number)| entry(index, &number.to_ne_bytes()));
    expression(kind, &numbers.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nft 1.0.6 sends for `typeof ip6 daddr . meta l4proto . th dport . numgen random mod 2 : ip6 daddr . th dport`.
    #[cfg(target_endian = "little")]
    #[test]
    fn expressions_are_written_as_nft_reads_them() {
        use DataType::{Address, Number, Port, Protocol};
        let key = [Address(Family::V6), Protocol, Port, Number];
        let found = of_expressions(&key, &[Address(Family::V6), Port]);
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "036000040d00000001580014000407000000010c00040d000000010409000000010e000409000000010600041000000002\
                        14000407000000010c00040b000000010402000000031a00041700000001120004010000000104020000000204000000\
                        00043400040d000000012c0014000407000000010c00040d0000000104090000000114000407000000010c00040b0000\
                        00010402000000";
        assert_eq!(found, expected);
    }

    #[test]
    fn comments_are_written_as_nft_reads_them() {
        // nft --debug=netlink: userdata = { \x00\x04abc\x00 }
        assert_eq!(comment("abc"), b"\x00\x04abc\x00");
        assert_eq!(read_comment(b"\x00\x04abc\x00").as_deref(), Some("abc"));
        assert_eq!(read_comment(b"\x01\x01x\x00\x02y\x00").as_deref(), Some("y"));
        for broken in [&b""[..], b"\x00", b"\x00\x09abc", b"\x05\x00"] {
            assert_eq!(read_comment(broken), None, "{broken:?}");
        }
    }
}
