//! Policy rules (ip-rule(8)): which table the packets from an address are routed by.

mod change;
mod tables;

use std::fmt;

use cni_plugin::Family;
use ipnetwork::IpNetwork;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use crate::netlink::address_family;

/// A rule that sends packets from a network to a table, and says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Packets from here; a single address has the full prefix.
    pub source: IpNetwork,
    /// The table that they are routed by.
    pub table: u32,
    /// Rules are asked in the order of their priorities, the smallest first. Before all but the one of the table `local` if none.
    pub priority: Option<u32>,
    /// Who made it (`RTPROT_*` of `include/uapi/linux/rtnetlink.h`), since Linux 4.17; 0 says nothing.
    pub protocol: u8,
}

impl Rule {
    /// A rule at the kernel's place of choice.
    pub fn new(source: IpNetwork, table: u32) -> Self {
        Self { source, table, priority: None, protocol: 0 }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = address_family(Family::of(self.source.ip()));
        message.header.src_len = self.source.prefix();
        message.header.action = RuleAction::ToTable;
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Source(self.source.ip()));
        // The header has room for tables below 256 only.
        attributes.push(RuleAttribute::Table(self.table));
        attributes.extend(self.priority.map(RuleAttribute::Priority));
        if self.protocol != 0 {
            attributes.push(RuleAttribute::Protocol(self.protocol.into()));
        }
        message
    }

    /// `None` for a rule of another kind, or that asks for more than the source.
    fn from_message(message: &RuleMessage) -> Option<Self> {
        if message.header.action != RuleAction::ToTable || message.header.dst_len != 0 {
            return None;
        }
        let mut source = None;
        let (mut priority, mut protocol) = (None, 0);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Source(found) => source = IpNetwork::new(*found, message.header.src_len).ok(),
                RuleAttribute::Priority(found) => priority = Some(*found),
                RuleAttribute::Protocol(found) => protocol = (*found).into(),
                RuleAttribute::FwMark(mark) if *mark != 0 => return None,
                RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) | RuleAttribute::UidRange(_) => return None,
                _ => {}
            }
        }
        Some(Self { source: source?, table: table_of(message), priority, protocol })
    }
}

/// `from 10.0.0.5 lookup 100`, as `ip rule add` takes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_single = self.source.prefix() == Family::of(self.source.ip()).bits();
        match is_single {
            true => write!(f, "from {} lookup {}", self.source.ip(), self.table),
            false => write!(f, "from {} lookup {}", self.source, self.table),
        }
    }
}

/// The header has room for tables below 256 only.
fn table_of(rule: &RuleMessage) -> u32 {
    let attribute = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(rule.header.table.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_the_wire_and_prints_itself() {
        let mut rule = Rule::new("10.0.0.5/32".parse().unwrap(), 300);
        rule.protocol = 67;
        assert_eq!(Rule::from_message(&rule.message()), Some(rule));
        assert_eq!(rule.to_string(), "from 10.0.0.5 lookup 300");
        let network = Rule { priority: Some(7), ..Rule::new("fd00::/64".parse().unwrap(), 100) };
        assert_eq!(Rule::from_message(&network.message()), Some(network));
        assert_eq!(network.to_string(), "from fd00::/64 lookup 100");
    }

    #[test]
    fn a_rule_that_asks_for_more_is_another_kind() {
        let mut message = Rule::new("10.0.0.5/32".parse().unwrap(), 100).message();
        message.attributes.push(RuleAttribute::Oifname("eth0".to_owned()));
        assert_eq!(Rule::from_message(&message), None);
    }
}
