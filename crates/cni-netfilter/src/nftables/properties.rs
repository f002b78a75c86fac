//! What must hold for whatever the kernel answers, and for whatever conditions are configured.

use cni_plugin::Family;

use super::owned::{comment, index};
use super::ports::{conditions, elements};
use super::ruleset::{SetId, element, user_data};
use super::wire::{Body, Table, TableFamily, answers};

/// What a kernel would send, or not, and what is read of it here; not the decoder of the rest, netlink-packet-netfilter 0.4.0, which
/// panics at an attribute inside of another that is longer than that (`DataAttribute`, `ListAttribute`). No kernel sends one.
///
/// A datagram: it is split into messages that are read, or not, each element of them is a port's or something else, and a comment
/// is written and read again as the same.
pub fn answers_hold(data: &[u8]) {
    let mut read = 0;
    for found in answers(data) {
        read += 1;
        let Ok(found) = found else { break };
        let Body::Message(message) = found.body else { continue };
        for name in ["ports", "address_ports", "members", "address_members"] {
            for found in element::read(SetId { table: TABLE, name }, &message) {
                let _ = elements::read(&found);
                let _ = (comment::holder(&found.comment), comment::container(&found.comment));
                assert!(index::key(TABLE, &found.comment).is_none_or(|key| key.bytes.len() == 16));
            }
        }
    }
    assert!(read <= data.len() / 16 + 1, "each message has a header");
    if let Some(text) = user_data::read_comment(data).filter(|text| text.len() < 250 && !text.contains('\0')) {
        assert_eq!(user_data::read_comment(&user_data::comment(&text)).as_deref(), Some(text.as_str()));
    }
}

const TABLE: Table<'static> = Table { family: TableFamily::Ip, name: "cni_ports" };

/// Conditions, one a line: refused by name, or at most 64 rules for each family, the same ones every time.
pub fn conditions_hold(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for family in Family::ALL {
        match conditions::compile(&lines, family) {
            Ok(rules) => {
                assert!(!rules.is_empty() && rules.len() <= 64);
                assert_eq!(conditions::compile(&lines, family).ok(), Some(rules));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
