//! Who has chains and rules in iptables, this plugin's and the Go plugins'.

use std::collections::BTreeMap;

use cni_plugin::Family;

use super::owned::owner_comment;
use super::tool::{IptablesError, Reading, Table, Tools, command};
use super::{Iptables, dns_redirect, forwarding, masquerade, ports};
use crate::inventory::{Owned, Who};

impl Iptables {
    /// What each owner has in `nat` and `filter`, of one family. Starts the tool, once for each table.
    ///
    /// # Errors
    /// If the tables can't be read.
    pub(crate) fn inventory(family: Family) -> Result<Vec<Owned>, IptablesError> {
        let read = |table| Reading::for_removal(Tools::of(family), table, || true).map(|reading| reading.table);
        let (nat, filter) = (read(masquerade::CHAINS.table)?, read("filter")?);
        let mut found = Vec::new();
        for kind in [&masquerade::CHAINS, &ports::CHAINS, &dns_redirect::CHAINS] {
            for chain in nat.names().filter(|chain| kind.fits(chain)) {
                let who = owner_comment(&nat, chain).map(Who::of_comment).or_else(|| go_container(&nat, chain));
                let count = nat.rules(chain).count() + nat.jumps_to(chain).count();
                let place = format!("{} chain {chain}", command(family));
                found.extend(who.map(|who| Owned { who, place, count }));
            }
        }
        let mut accepted: BTreeMap<Who, usize> = BTreeMap::new();
        for rule in filter.rules(forwarding::OWNERS) {
            if let Some(who @ (Who::Owner { .. } | Who::Key { .. })) = rule.comment().map(Who::of_comment) {
                *accepted.entry(who).or_default() += 1;
            }
        }
        let place = || format!("{} chain {}", command(family), forwarding::OWNERS);
        found.extend(accepted.into_iter().map(|(who, count)| Owned { who, place: place(), count }));
        Ok(found)
    }
}

/// The container that the Go plugins' comments name on the rules of a chain and on those that lead to it:
/// `name: "NETWORK" id: "CONTAINER"`; portmap's are of the form `dnat name: "NETWORK" id: "CONTAINER"`.
fn go_container(table: &Table, chain: &str) -> Option<Who> {
    let comments = table.rules(chain).chain(table.jumps_to(chain)).filter_map(|rule| rule.comment());
    comments.filter_map(read_go_comment).next()
}

fn read_go_comment(comment: &str) -> Option<Who> {
    let quoted = |key: &str| comment.split_once(key)?.1.split('"').next();
    let (network, container) = (quoted("name: \"")?, quoted("id: \"")?);
    Some(Who::OfNetwork { network: network.to_owned(), container: container.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_comments_name_network_and_container() {
        let table = Table::parse("nat", include_str!("testdata/go-v4.save"));
        let who = go_container(&table, "CNI-DN-2b532654759c10326b663").unwrap();
        assert!(matches!(&who, Who::OfNetwork { container, .. } if container == "c1abc"), "{who:?}");
        assert_eq!(go_container(&table, "CNI-2b532654759c10326b66367a"), Some(who));
        assert_eq!(read_go_comment("by hand"), None);
    }
}
