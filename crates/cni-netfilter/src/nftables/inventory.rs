//! Who has something in the tables of this plugin and of the Go plugins: for people, and to find what is left over.

use cni_plugin::Family;

use super::owned::OwnedTable;
use super::owned::index::{self, Entry};
use super::ruleset::{chain, element, rule};
use super::wire::{NftError, Table, TableFamily};
use super::{Nftables, dns_redirect, forwarding, mac_guard, masquerade, open_ports, ports, published_only};
use crate::inventory::{Owned, Who};

/// The tables whose elements belong to owners.
static OWNED: [&[&OwnedTable]; 7] = [
    &[&masquerade::OWNED],
    &ports::skeleton::OWNED,
    &[&mac_guard::OWNED],
    &[&forwarding::skeleton::OWNED],
    &[&published_only::OWNED],
    &[&open_ports::OWNED],
    &dns_redirect::OWNED,
];
/// The table of the Go plugins' masquerading, and its chain with a rule for each address.
const GO_MASQUERADE: Table<'static> = Table { family: TableFamily::Inet, name: "cni_plugins_masquerade" };
const GO_MASQUERADE_CHAIN: &str = "masq_checks";

impl Nftables {
    /// What each owner has in each table, by the tables' indexes, and what the Go plugins made, by the comments of their rules. Reads
    /// all of it.
    ///
    /// # Errors
    /// If the kernel can't be asked.
    pub fn inventory(&self) -> Result<Vec<Owned>, NftError> {
        let mut found = Vec::new();
        for table in OWNED.into_iter().flatten().map(|owned| owned.table) {
            for element in element::dump(&self.socket, index::set_id(table))? {
                if let Some(entry) = Entry::read(&element) {
                    let place = format!("nftables table {table}");
                    let count = usize::try_from(entry.elements).unwrap_or(usize::MAX);
                    found.push(Owned { who: Who::of_comment(&element.comment), place, count });
                }
            }
        }
        rule::scan_commented(&self.socket, GO_MASQUERADE, &[GO_MASQUERADE_CHAIN], |_, comment| {
            let place = format!("nftables table {GO_MASQUERADE}");
            found.push(Owned { who: Who::of_comment(comment), place, count: 1 });
        })?;
        for ports in self.go_ports()? {
            let place = "nftables table cni_hostport".to_owned();
            found.push(Owned { who: Who::Container(ports.container), place, count: 1 });
        }
        Ok(found)
    }

    /// True if iptables-nft's tables of this family have a chain with such a name.
    pub(crate) fn has_chains_of_iptables(&self, family: Family, prefix: &str) -> bool {
        let has = |name| {
            let table = Table { family: family.into(), name };
            chain::starting_with(&self.socket, table, prefix).is_ok_and(|found| !found.is_empty())
        };
        has("nat") || has("filter")
    }
}
