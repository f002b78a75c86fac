//! A transaction: changes that the kernel makes together or not at all.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, NfTablesMessage, RuleAttribute, SetAttribute, SetElementList, TableAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem};
use rustix::io::Errno;

/// `NFNL_BATCH_GENID`: the batch holds only for this generation of the rule set.
const GENERATION: u16 = 1;
/// `NFNL_MSG_BATCH_BEGIN`.
const BEGIN: u8 = 16;
/// `ERESTART`, which the kernel answers if the generation has changed. No name for it in user space.
pub(crate) const GENERATION_CHANGED: Errno = Errno::from_raw_os_error(85);

/// One change of a [`Batch`].
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) what: String,
    pub(super) flags: u16,
    pub(super) family: NetfilterProtoFamily,
    pub(super) message: NfTablesMessage,
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(super) changes: Vec<Change>,
}

impl Change {
    /// The table that is changed.
    pub(super) fn table(&self) -> Option<&str> {
        match &self.message {
            NfTablesMessage::NewTable(message) | NfTablesMessage::DeleteTable(message) => message
                .attributes
                .iter()
                .find_map(|a| if let TableAttribute::Name(name) = a { Some(name) } else { None }),
            NfTablesMessage::NewChain(message) | NfTablesMessage::DeleteChain(message) => message
                .attributes
                .iter()
                .find_map(|a| if let ChainAttribute::Table(name) = a { Some(name) } else { None }),
            NfTablesMessage::NewRule(message) | NfTablesMessage::DeleteRule(message) => message
                .attributes
                .iter()
                .find_map(|a| if let RuleAttribute::Table(name) = a { Some(name) } else { None }),
            NfTablesMessage::NewSet(message) | NfTablesMessage::DeleteSet(message) => message
                .attributes
                .iter()
                .find_map(|a| if let SetAttribute::Table(name) = a { Some(name) } else { None }),
            NfTablesMessage::NewSetElement(message) | NfTablesMessage::DeleteSetElement(message) => message
                .attributes
                .iter()
                .find_map(|a| if let SetElementList::Table(name) = a { Some(name) } else { None }),
            _ => None,
        }
        .map(String::as_str)
    }
}

impl Batch {
    /// Adds a change. `what` completes "the kernel refused to …"; `flags` are `NLM_F_CREATE` and the like.
    pub(crate) fn push(
        &mut self,
        what: impl Into<String>,
        family: NetfilterProtoFamily,
        flags: u16,
        message: NfTablesMessage,
    ) {
        self.changes.push(Change { what: what.into(), flags, family, message });
    }

    /// True if there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// A message about the batch itself.
pub(super) fn control(message: ControlMessage) -> NetfilterMessage {
    // The batch says in its header which subsystem it is for.
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, u8::from(NetfilterSubsystem::NfTables).into());
    NetfilterMessage::new(header, message)
}

/// The message that opens a batch.
pub(super) fn begin(generation: Option<u32>) -> NetfilterMessage {
    control(generation.map_or(ControlMessage::BatchBegin, |generation| ControlMessage::Other {
        message_type: BEGIN,
        attributes: vec![DefaultNla::new(GENERATION, generation.to_be_bytes().to_vec())],
    }))
}
