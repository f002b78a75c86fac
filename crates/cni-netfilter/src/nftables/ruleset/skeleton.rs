//! A table of this plugin with all that does not belong to a single container.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableFlags, TableMessage};

use super::user_data;
use super::{Chain, Set};
use crate::nftables::wire::{Batch, Table, part};

/// The shared part of a table.
#[derive(Debug, Clone)]
pub(crate) struct Skeleton {
    pub(crate) table: Table<'static>,
    pub(crate) comment: &'static str,
    pub(crate) sets: Vec<Set>,
    pub(crate) chains: Vec<Chain>,
    /// The chain of this name, where the name says what is in it although it isn't among `chains`: that of a subnet.
    pub(crate) by_name: fn(&str) -> Option<Chain>,
}

impl Skeleton {
    /// Adds the messages that create what is missing and make the rules of its chains these and no others.
    pub(crate) fn install(&self, batch: &mut Batch) {
        let table = self.table;
        batch.add_table(table, [TableAttribute::UserData(user_data::comment(self.comment))]);
        for (id, set) in (1..).zip(&self.sets) {
            let message = NfTablesMessage::NewSet(set.message(table, id));
            batch.push(table, format!("add set {table} {}", set.name), NLM_F_CREATE, message);
        }
        for chain in &self.chains {
            chain.declare(table, batch);
        }
        for chain in &self.chains {
            chain.fill(table, batch);
        }
    }

    /// Requests for the table, then for each set, then for each chain of it.
    pub(crate) fn requests(&self) -> Vec<NetfilterMessage> {
        let sets = self.sets.iter().map(|set| set.request(self.table));
        let chains = self.chains.iter().map(|chain| self.table.chain_request(&chain.name));
        [self.table.request_itself()].into_iter().chain(sets).chain(chains).collect()
    }
}

impl Batch {
    /// Adds the message that creates a table, unless it exists.
    pub(crate) fn add_table(&mut self, table: Table<'_>, further: impl IntoIterator<Item = TableAttribute>) {
        let attributes = [TableAttribute::Name(table.name.to_owned())].into_iter().chain(further).collect();
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        self.push(table, format!("add table {table}"), NLM_F_CREATE, message);
    }
}

impl Table<'_> {
    /// A request for the table.
    pub(crate) fn request_itself(self) -> NetfilterMessage {
        let attributes = vec![TableAttribute::Name(self.name.to_owned())];
        self.request(NfTablesMessage::GetTable(TableMessage { attributes }))
    }

    /// Adds the message that ends the table's being dormant. Not together with base chains: the kernel refuses those in a
    /// transaction that changes the flags of their table (`nf_tables_addchain`).
    pub(crate) fn wake(self, batch: &mut Batch) {
        batch.add_table(self, [TableAttribute::Flags(TableFlags::empty())]);
    }
}

/// True if a listed table is dormant: the kernel keeps it and does not use it for packets.
pub(crate) fn is_dormant(listed: &NfTablesMessage) -> bool {
    let NfTablesMessage::NewTable(table) = listed else { return false };
    part!(table.attributes, TableAttribute::Flags).is_some_and(|flags| flags.contains(TableFlags::Dormant))
}
