//! Expressions that `netlink-packet-netfilter` has no type for, through its raw attributes, and libnftnl's user data.
//!
//! Numbers are from `linux/netfilter/nf_tables.h`; they go over the wire in network byte order.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{Expressions, Register};

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn expression(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

/// `fib daddr type` into `to`: what the routing tables say of the destination address, as `RTN_…` in host byte order.
pub(super) fn fib_daddr_type(to: Register) -> Expressions {
    /// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`.
    const ADDRESS_TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 1 << 1;
    // NFTA_FIB_DREG, NFTA_FIB_RESULT, NFTA_FIB_FLAGS
    expression("fib", vec![number(1, to.into()), number(2, ADDRESS_TYPE), number(3, OF_DESTINATION)])
}

/// `ct status` into `to`, in host byte order.
pub(super) fn ct_status(to: Register) -> Expressions {
    /// `NFT_CT_STATUS`.
    const STATUS: u32 = 2;
    // NFTA_CT_DREG, NFTA_CT_KEY
    expression("ct", vec![number(1, to.into()), number(2, STATUS)])
}

/// `ct original proto-dst` into `to`: the destination port before any translation.
pub(super) fn ct_original_port(to: Register) -> Expressions {
    /// `NFT_CT_PROTO_DST`, `IP_CT_DIR_ORIGINAL`.
    const DESTINATION_PORT: u32 = 12;
    const ORIGINAL: u8 = 0;
    // NFTA_CT_DREG, NFTA_CT_KEY, NFTA_CT_DIRECTION
    expression("ct", vec![number(1, to.into()), number(2, DESTINATION_PORT), DefaultNla::new(3, vec![ORIGINAL])])
}

/// `masquerade`.
pub(super) fn masquerade() -> Expressions {
    expression("masq", Vec::new())
}

/// `dnat ip to` (`family` `NFPROTO_IPV4`) or `dnat ip6 to` the address in one register and the port in another.
pub(super) fn dnat(family: u8, address: Register, port: Register) -> Expressions {
    /// `NFT_NAT_DNAT`.
    const DESTINATION: u32 = 1;
    // NFTA_NAT_TYPE, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN
    expression(
        "nat",
        vec![number(1, DESTINATION), number(2, family.into()), number(3, address.into()), number(5, port.into())],
    )
}

/// One entry of libnftnl's user data: type, length, value.
fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![kind, length];
    bytes.extend_from_slice(&value[..usize::from(length)]);
    bytes
}

/// User data that `nft list` shows as the comment of a table, chain, rule or element (type 0 in all of them).
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    entry(0, &value)
}

/// The comment in the user data of a rule or element; nothing if it has none.
pub(super) fn read_comment(user_data: &[u8]) -> Option<String> {
    let mut rest = user_data;
    while let [kind, length, more @ ..] = rest {
        let value = more.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = &more[value.len()..];
    }
    None
}

/// The byte orders of a set's key and value, without which `nft` cannot print them (`NFTNL_UDATA_SET_KEYBYTEORDER`,
/// `NFTNL_UDATA_SET_DATABYTEORDER`).
pub(super) fn set_user_data(key_order: u32, value_order: Option<u32>, comment: &str) -> Vec<u8> {
    let mut bytes = entry(0, &key_order.to_ne_bytes());
    if let Some(order) = value_order {
        bytes.extend(entry(1, &order.to_ne_bytes()));
    }
    let mut text = comment.as_bytes().to_vec();
    text.push(0);
    bytes.extend(entry(7, &text));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

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
