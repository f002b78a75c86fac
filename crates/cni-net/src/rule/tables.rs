//! Which tables the packets of an interface are routed by, as the rules have it.

use std::collections::HashSet;

use cni_plugin::Family;
use ipnetwork::IpNetwork;
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use super::table_of;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, address_family, rtm};

impl Netlink {
    /// The tables, other than the main one, that packets from one of `addresses` of the link with this index are routed by: those
    /// of rules for a source that is among the addresses, as the plugin `sbr` makes them, and that of the VRF that the link
    /// is a port of. Lists all rules of the family.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn tables_of(&self, index: u32, family: Family, addresses: &[IpNetwork]) -> Result<HashSet<u32>, NetError> {
        let mut message = RuleMessage::default();
        message.header.family = address_family(family);
        let answers =
            self.dump(rtm::GETRULE, &message).map_err(|failure| failure.during(self, Operation::ListRules))?;
        let is_for = |source: IpNetwork| addresses.iter().any(|address| source.contains(address.ip()));
        let tables = answers.iter().filter(|rule| source_of(rule).is_some_and(is_for)).map(table_of);
        let vrf = match self.link_by_index(index)?.and_then(|link| link.master) {
            Some(master) => self.link_by_index(master)?.and_then(|master| master.vrf_table),
            None => None,
        };
        Ok(tables.chain(vrf).collect())
    }
}

fn source_of(rule: &RuleMessage) -> Option<IpNetwork> {
    let source = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Source(source) => Some(*source),
        _ => None,
    });
    IpNetwork::new(source?, rule.header.src_len).ok()
}
