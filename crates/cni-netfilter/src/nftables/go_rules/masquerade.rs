//! The masquerading of the Go bridge and ptp plugins, `inet cni_plugins_masquerade`: one rule for each address, whose comment begins with
//! the owner's key.

use netlink_packet_netfilter::nftables::Operator;

use super::remove_rules;
use crate::intent::Masquerade;
use crate::nftables::ruleset::data;
use crate::nftables::ruleset::expression as expr;
use crate::nftables::ruleset::rule::{self, ListedRule};
use crate::nftables::wire::{NftError, Socket, Table, TableFamily};

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "cni_plugins_masquerade" };
/// The chain of the containers' rules.
const CHECKS: &str = "masq_checks";

/// Removes the rules whose comment satisfies `matches`. Idempotent.
pub(crate) fn remove(socket: &Socket, matches: impl Fn(&str) -> bool) -> Result<(), NftError> {
    remove_rules(socket, TABLE, &[CHECKS], |_, comment| matches(comment))
}

/// True if the Go plugins' rules masquerade each of these.
pub(crate) fn serves(socket: &Socket, intents: &[Masquerade]) -> Result<bool, NftError> {
    let entry = rule::list(socket, TABLE, Some("postrouting"))?;
    Ok(is_entered(&entry) && all_served(&rule::list(socket, TABLE, Some(CHECKS))?, intents))
}

/// True if a rule of the base chain leads to the containers' rules.
fn is_entered(entry: &[ListedRule]) -> bool {
    entry.iter().any(|rule| rule.has(&expr::goto(CHECKS)))
}

/// True if each of these has a rule of its owner that masquerades its address.
fn all_served(rules: &[ListedRule], intents: &[Masquerade]) -> bool {
    let serves = |intent: &Masquerade, rule: &ListedRule| {
        let from = expr::compare(Operator::Equal, data::address(intent.address));
        let is_of_owner = rule.comment.as_ref().is_some_and(|comment| intent.owner.wrote(comment));
        intent.to.is_none() && is_of_owner && rule.has(&from) && rule.has(&expr::masquerade())
    };
    intents.iter().all(|intent| rules.iter().any(|rule| serves(intent, rule)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::ruleset::expression::Side;
    use cni_plugin::{Family, Owner};

    fn owner(id: &str) -> Owner {
        let (network, ifname) = ("n".parse().unwrap(), "eth0".parse().unwrap());
        Owner { network, container_id: id.parse().unwrap(), ifname }
    }

    /// `ip saddr <address> … masquerade comment "<owner's key>, …"`, as Go's bridge adds it.
    fn rule(address: &str, owner: &Owner, masquerades: bool) -> ListedRule {
        let address = address.parse().unwrap();
        let load = expr::address(Family::of(address), Side::Source, 0);
        let compare = expr::compare(Operator::Equal, data::address(address));
        let end = if masquerades { expr::masquerade() } else { expr::counter() };
        let comment = Some(format!("{}, net: n, if: eth0, id: {}", owner.key(), owner.container_id));
        ListedRule { comment, expressions: vec![load, compare, end], ..ListedRule::default() }
    }

    #[test]
    fn each_address_needs_a_rule_of_its_owner_that_masquerades() {
        let (one, other) = (owner("c1"), owner("c2"));
        let rules = [rule("10.1.0.2", &one, true), rule("fd00::2", &one, true), rule("10.1.0.3", &other, false)];
        for (owner, addresses, served) in [
            (&one, vec!["10.1.0.2"], true),
            (&one, vec!["10.1.0.2", "fd00::2"], true),
            (&one, vec!["10.1.0.2", "10.1.0.9"], false),
            (&other, vec!["10.1.0.2"], false),
            (&other, vec!["10.1.0.3"], false),
        ] {
            let intent = |address: &&str| {
                let address: std::net::IpAddr = address.parse().unwrap();
                Masquerade { owner: owner.clone(), address, subnet: address.into(), to: None }
            };
            let intents: Vec<_> = addresses.iter().map(intent).collect();
            assert_eq!(all_served(&rules, &intents), served, "{owner} {addresses:?}");
        }
        let without_comment = ListedRule { comment: None, ..rule("10.1.0.2", &one, true) };
        let intent = Masquerade {
            owner: one,
            address: "10.1.0.2".parse().unwrap(),
            subnet: "10.1.0.0/24".parse().unwrap(),
            to: None,
        };
        assert!(!all_served(&[without_comment], &[intent]));
    }

    #[test]
    fn the_base_chain_has_to_lead_to_the_rules() {
        let entry = |expression| [ListedRule { expressions: vec![expression], ..ListedRule::default() }];
        assert!(is_entered(&entry(expr::goto(CHECKS))));
        assert!(!is_entered(&entry(expr::goto("other"))) && !is_entered(&entry(expr::accept())) && !is_entered(&[]));
    }
}
