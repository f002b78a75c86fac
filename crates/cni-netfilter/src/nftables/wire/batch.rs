//! A transaction: changes that the kernel makes together or not at all.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem};
use rustix::io::Errno;

use super::table::{Table, TableFamily};

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
    family: TableFamily,
    table: String,
    pub(super) message: NfTablesMessage,
}

impl Change {
    pub(super) fn table(&self) -> Table<'_> {
        Table { family: self.family, name: &self.table }
    }
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(super) changes: Vec<Change>,
}

impl Batch {
    /// Adds a change of `table`. `what` completes "the kernel refused to …"; `flags` are `NLM_F_CREATE` and the like.
    pub(crate) fn push(&mut self, table: Table<'_>, what: impl Into<String>, flags: u16, message: NfTablesMessage) {
        let (family, table) = (table.family, table.name.to_owned());
        self.changes.push(Change { what: what.into(), flags, family, table, message });
    }

    /// Adds the changes of another batch behind its own.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.changes.append(&mut other.changes);
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
