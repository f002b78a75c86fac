//! How an attachment's chains are called, and whose a chain is.
//!
//! The Go plugins' chain names come from network and container alone, so two interfaces of one container on one network
//! would share them. Here the first one gets that name, which lets either implementation find the other's rules, and a
//! rule that matches everything and does nothing ends the chain, with the owner as its comment. A second interface
//! finds the name taken and uses one with the interface's name in the hash.

use std::collections::BTreeSet;

use cni_plugin::{NetworkName, Owner, sha512_hex};

use super::rules::Rule;
use super::save::Table;

/// What a chain per attachment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `CNI-` and 24 digits: whether to masquerade what the container sends.
    Masquerade,
    /// `CNI-DN-` and 21 digits: the container's published ports.
    Ports,
}

impl Kind {
    fn prefix(self) -> (&'static str, usize) {
        match self {
            Self::Masquerade => ("CNI-", 24),
            Self::Ports => ("CNI-DN-", 21),
        }
    }

    /// The name that the Go plugins give it: a hash of network and container, whatever the interface.
    pub(super) fn shared_name(self, owner: &Owner) -> String {
        let (prefix, digits) = self.prefix();
        format!("{prefix}{}", sha512_hex(&[owner.network.as_str(), owner.container_id.as_str()], digits))
    }

    /// The name for an interface that found the shared one taken.
    pub(super) fn own_name(self, owner: &Owner) -> String {
        let (prefix, digits) = self.prefix();
        let parts = [owner.network.as_str(), owner.container_id.as_str(), owner.ifname.as_str()];
        format!("{prefix}{}", sha512_hex(&parts, digits))
    }

    /// The chain for source NAT that portmap made until 2018 and still removes.
    pub(super) fn outdated_name(self, owner: &Owner) -> Option<String> {
        let (_, digits) = self.prefix();
        let hash = || sha512_hex(&[owner.network.as_str(), owner.container_id.as_str()], digits);
        (self == Self::Ports).then(|| format!("CNI-SN-{}", hash()))
    }

    /// Every name that a chain of `owner` may have.
    pub(super) fn all_names(self, owner: &Owner) -> Vec<String> {
        let current = [self.shared_name(owner), self.own_name(owner)];
        current.into_iter().chain(self.outdated_name(owner)).collect()
    }

    /// True if `chain` is called as chains of this kind are, the outdated ones included.
    pub(super) fn names(self, chain: &str) -> bool {
        let (prefix, digits) = self.prefix();
        let hash = chain.strip_prefix(prefix).or_else(|| match self {
            Self::Ports => chain.strip_prefix("CNI-SN-"),
            Self::Masquerade => None,
        });
        hash.is_some_and(|hash| hash.len() == digits && hash.bytes().all(|b| b.is_ascii_hexdigit()))
    }
}

/// The rule at the end of `chain` that says whose it is. It has no target, so packets pass it.
pub(super) fn owner_rule(chain: &str, owner: &Owner) -> Rule {
    Rule::new(chain, ["-m", "comment", "--comment", &owner.comment()])
}

/// What the comment of a link rule begins with.
const LINK: &str = "link: ";

/// The rule behind the owner rule that says by which link of the node the container is reached.
pub(super) fn link_rule(chain: &str, link: u32) -> Rule {
    Rule::new(chain, ["-m", "comment", "--comment", &format!("{LINK}{link}")])
}

/// The link that a link rule among `rules` names.
pub(super) fn link_of(rules: &[Rule]) -> Option<u32> {
    rules
        .iter()
        .filter(|rule| rule.target().is_none())
        .find_map(|rule| rule.comment()?.strip_prefix(LINK)?.parse().ok())
}

/// The comment of the owner rule among `rules`; `None` for a chain that Go made.
pub(super) fn owner_comment(rules: &[Rule]) -> Option<&str> {
    let says = rules.iter().filter(|rule| rule.args.len() == 4 && rule.target().is_none()).find_map(Rule::comment);
    says.filter(|comment| !comment.starts_with(LINK))
}

/// The chains that `owner` has in `table`: the shared one if its owner rule says so, and the one that nobody else has a
/// name for.
pub(super) fn owned(table: &Table, kind: Kind, owner: &Owner) -> Vec<String> {
    let shared = kind.shared_name(owner);
    let comment = table.chain(&shared).and_then(owner_comment);
    let shared = comment.is_some_and(|comment| owner.wrote(comment)).then_some(shared);
    let own = Some(kind.own_name(owner)).filter(|name| table.chain(name).is_some());
    shared.into_iter().chain(own).collect()
}

/// The chain of `owner`'s container that Go made for one or all of its interfaces, if there is one.
pub(super) fn unowned(table: &Table, kind: Kind, owner: &Owner) -> Option<String> {
    let name = kind.shared_name(owner);
    table.chain(&name).is_some_and(|rules| owner_comment(rules).is_none()).then_some(name)
}

/// True if the owner's rules are those that Go made for its container: of what only we write, nothing is there.
pub(super) fn made_by_go(table: &Table, kind: Kind, owner: &Owner) -> bool {
    let go = || unowned(table, kind, owner).and_then(|name| table.chain(&name));
    owned(table, kind, owner).is_empty() && go().is_some_and(|rules| link_of(rules).is_none())
}

/// The chains that DEL of `owner` removes: those that are its own; if there are none, the one that Go made for the
/// container, for nobody can tell for which interface. With Go's goes the outdated one.
pub(super) fn of_owner(table: &Table, kind: Kind, owner: &Owner) -> Vec<String> {
    let mut chains = owned(table, kind, owner);
    if chains.is_empty() {
        chains.extend(unowned(table, kind, owner));
        chains.extend(kind.outdated_name(owner).filter(|name| table.chain(name).is_some()));
    }
    chains
}

/// The chains of `network` whose owner isn't one of `valid`. A chain that Go made is somebody's as long as any
/// interface of its container is valid.
pub(super) fn of_others(table: &Table, kind: Kind, network: &NetworkName, valid: &[Owner]) -> Vec<String> {
    let valid = || valid.iter().filter(|owner| owner.network == *network);
    let keys: BTreeSet<String> = valid().map(Owner::key).collect();
    let served: BTreeSet<String> =
        valid().flat_map(|owner| [Some(kind.shared_name(owner)), kind.outdated_name(owner)]).flatten().collect();
    let ours = Owner::network_key(network);
    let named = table.chains_named_by(&format!("name: \"{network}\" id: \""));
    let stale = |chain: &str| match table.chain(chain).and_then(owner_comment) {
        Some(comment) => comment.starts_with(&ours) && !comment.split(',').next().is_some_and(|key| keys.contains(key)),
        None => named.contains(chain) && !served.contains(chain),
    };
    table.names().filter(|chain| kind.names(chain) && stale(chain)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::testing::owner;

    #[test]
    fn the_shared_name_is_gos() {
        // Made by the Go plugins 1.1.1 for this network and container (testdata/go-v4.save).
        assert_eq!(Kind::Masquerade.shared_name(&owner("c1abc", "eth0")), "CNI-2b532654759c10326b66367a");
        assert_eq!(Kind::Ports.shared_name(&owner("c1abc", "eth1")), "CNI-DN-2b532654759c10326b663");
        assert_ne!(Kind::Ports.own_name(&owner("c1abc", "eth0")), Kind::Ports.own_name(&owner("c1abc", "eth1")));
    }

    #[test]
    fn kinds_know_their_names() {
        assert!(Kind::Masquerade.names("CNI-2b532654759c10326b66367a"));
        for other in ["CNI-HOSTPORT-DNAT", "CNI-DN-2b532654759c10326b663", "CNI-2b53", "CNI-2b532654759c10326b66367z"] {
            assert!(!Kind::Masquerade.names(other), "{other}");
        }
        assert!(Kind::Ports.names("CNI-DN-2b532654759c10326b663"));
        assert!(Kind::Ports.names("CNI-SN-2b532654759c10326b663"));
    }

    #[test]
    fn gos_chain_belongs_to_every_interface_of_its_container() {
        let table = Table::parse(include_str!("testdata/go-v4.save"));
        for ifname in ["eth0", "eth1"] {
            let chains = of_owner(&table, Kind::Ports, &owner("c1abc", ifname));
            assert_eq!(chains, ["CNI-DN-2b532654759c10326b663"]);
        }
        assert!(of_owner(&table, Kind::Ports, &owner("other", "eth0")).is_empty());

        let network = owner("c1abc", "eth0").network;
        assert!(of_others(&table, Kind::Ports, &network, &[owner("c1abc", "eth7")]).is_empty());
        assert_eq!(of_others(&table, Kind::Ports, &network, &[owner("c2", "eth0")]).len(), 1);
        assert_eq!(of_others(&table, Kind::Masquerade, &network, &[]).len(), 1);
        assert!(of_others(&table, Kind::Ports, &"other-net".parse().unwrap(), &[]).is_empty());
    }

    #[test]
    fn an_owned_chain_belongs_to_its_owner_only() {
        let (first, second) = (owner("c1", "eth0"), owner("c1", "eth1"));
        let name = Kind::Ports.shared_name(&first);
        let table = Table::parse(&owner_rule(&name, &first).to_string());
        assert_eq!(owned(&table, Kind::Ports, &first), [name]);
        assert!(of_owner(&table, Kind::Ports, &second).is_empty());
        assert_eq!(of_others(&table, Kind::Ports, &first.network, &[second]).len(), 1);
        assert!(of_others(&table, Kind::Ports, &first.network, std::slice::from_ref(&first)).is_empty());
    }
}
