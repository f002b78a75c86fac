//! What must hold for whatever the kernel answers, and for whatever conditions are configured.

use super::answer::{self, Body};
use super::element::SetId;
use super::expr::Ip;
use super::frame::{Family, TableId};
use super::{comment, conditions, element, index, portframe, portkeys, raw};

/// What a kernel would send, or not, and what is read of it here; not the decoder of the rest, netlink-packet-netfilter 0.4.0, which
/// panics at an attribute inside of another that is longer than that (`DataAttribute`, `ListAttribute`). No kernel sends one.
///
/// A datagram: it is split into messages that are read, or not, each element of them is a port's or something else, and a comment
/// is written and read again as the same.
pub fn answers_hold(data: &[u8]) {
    let mut read = 0;
    for found in answer::answers(data) {
        read += 1;
        let Ok(found) = found else { break };
        let Body::Message(message) = found.body else { continue };
        for found in element::read(&message) {
            let _ = portkeys::read(SetId { table: TABLE, name: portframe::PORTS }, &found);
            let _ = portkeys::read(SetId { table: TABLE, name: portframe::ADDRESS_PORTS }, &found);
            let _ = (comment::holder(&found.comment), comment::container(&found.comment));
            for (_, key) in index::keys(&[TABLE], &found.comment) {
                assert_eq!(key.len(), 16);
            }
        }
    }
    assert!(read <= data.len() / 16 + 1, "each message has a header");
    if let Some(text) = raw::read_comment(data).filter(|text| text.len() < 250 && !text.contains('\0')) {
        assert_eq!(raw::read_comment(&raw::comment(&text)).as_deref(), Some(text.as_str()));
    }
}

const TABLE: TableId = TableId { family: Family::Only(Ip::V4), name: "cni_ports" };

/// Conditions, one a line: refused by name, or at most 64 rules for each family, the same ones every time.
pub fn conditions_hold(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for ip in [Ip::V4, Ip::V6] {
        match conditions::compile(&lines, ip) {
            Ok(rules) => {
                assert!(!rules.is_empty() && rules.len() <= 64);
                assert_eq!(conditions::compile(&lines, ip).ok(), Some(rules));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
