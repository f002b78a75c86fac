//! The names of attachments' chains, and whose a chain is.
//!
//! The Go plugins' chain names come from network and container alone, so two interfaces of one container on one network
//! would share them. Here the first one gets that name, which lets either implementation find the other's rules, and a
//! rule that matches everything and does nothing ends the chain, with the owner as its comment. A second interface
//! finds the name taken and uses one with the interface's name in the hash.

use std::collections::BTreeSet;

use cni_plugin::{NetworkName, Owner, sha512_hex};

use crate::iptables::tool::{Rule, Table};

/// The chains that attachments have for one intent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ChainKind {
    /// The table that they are in.
    pub(crate) table: &'static str,
    /// What a name begins with.
    pub(crate) prefix: &'static str,
    /// The hexadecimal digits after that.
    pub(crate) digits: usize,
    /// The prefix of a chain that the Go plugin made in earlier versions and still removes.
    pub(crate) outdated_prefix: Option<&'static str>,
    /// True if the chain that Go made is of the whole container, and the latest ADD says what is in it. Else it may serve
    /// another interface of the container.
    pub(crate) go_is_of_container: bool,
}

impl ChainKind {
    /// The name that the Go plugins give it: a hash of network and container, whatever the interface.
    pub(crate) fn shared_name(&self, owner: &Owner) -> String {
        format!("{}{}", self.prefix, self.container_hash(owner))
    }

    /// The name for an interface that found the shared one taken.
    pub(crate) fn own_name(&self, owner: &Owner) -> String {
        let parts = [owner.network.as_str(), owner.container_id.as_str(), owner.ifname.as_str()];
        format!("{}{}", self.prefix, sha512_hex(&parts, self.digits))
    }

    pub(crate) fn outdated_name(&self, owner: &Owner) -> Option<String> {
        self.outdated_prefix.map(|prefix| format!("{prefix}{}", self.container_hash(owner)))
    }

    fn container_hash(&self, owner: &Owner) -> String {
        sha512_hex(&[owner.network.as_str(), owner.container_id.as_str()], self.digits)
    }

    /// Every name that a chain of `owner` may have.
    pub(crate) fn all_names(&self, owner: &Owner) -> Vec<String> {
        let current = [self.shared_name(owner), self.own_name(owner)];
        current.into_iter().chain(self.outdated_name(owner)).collect()
    }

    /// True if a chain of this kind, the outdated one included, can have this name.
    pub(crate) fn fits(&self, chain: &str) -> bool {
        let prefixes = [Some(self.prefix), self.outdated_prefix];
        let hash = prefixes.into_iter().flatten().find_map(|prefix| chain.strip_prefix(prefix));
        hash.is_some_and(|hash| hash.len() == self.digits && hash.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// The chains that `owner` has in `table`: the shared one if its owner rule says so, and the one with the name that no
    /// other owner's chain has.
    pub(crate) fn owned(&self, table: &Table, owner: &Owner) -> Vec<String> {
        let shared = self.shared_name(owner);
        let is_own = owner_comment(table, &shared).is_some_and(|comment| owner.wrote(comment));
        let own = Some(self.own_name(owner)).filter(|name| table.has_chain(name));
        is_own.then_some(shared).into_iter().chain(own).collect()
    }

    /// The chain of `owner`'s container that Go made for one or all of its interfaces, if there is one.
    pub(crate) fn unowned(&self, table: &Table, owner: &Owner) -> Option<String> {
        let name = self.shared_name(owner);
        (table.has_chain(&name) && owner_comment(table, &name).is_none()).then_some(name)
    }

    /// True if the owner's rules are those that Go made for its container: of what Go doesn't write, nothing is there.
    pub(crate) fn made_by_go(&self, table: &Table, owner: &Owner) -> bool {
        self.owned(table, owner).is_empty()
            && self.unowned(table, owner).is_some_and(|name| link_of(table, &name).is_none())
    }

    /// The chains that DEL of `owner` removes: its own; if there are none, the Go plugin's chain of the container, which doesn't
    /// say for which interface it is, and with that the outdated one.
    pub(crate) fn of_owner(&self, table: &Table, owner: &Owner) -> Vec<String> {
        let mut chains = self.owned(table, owner);
        if chains.is_empty() {
            chains.extend(self.unowned(table, owner));
            chains.extend(self.outdated_name(owner).filter(|name| table.has_chain(name)));
        }
        chains
    }

    /// The chains of `network` whose owner isn't one of `valid`. A chain that Go made is in use as long as any interface of
    /// its container is valid.
    pub(crate) fn of_others(&self, table: &Table, network: &NetworkName, valid: &[Owner]) -> Vec<String> {
        let valid = || valid.iter().filter(|owner| owner.network == *network);
        let keys: BTreeSet<String> = valid().map(Owner::key).collect();
        let in_use: BTreeSet<String> =
            valid().flat_map(|owner| [Some(self.shared_name(owner)), self.outdated_name(owner)]).flatten().collect();
        let of_network = Owner::network_key(network);
        let named = chains_with_comment(table, &format!("name: \"{network}\" id: \""));
        let stale = |chain: &str| match owner_comment(table, chain) {
            Some(comment) => comment.starts_with(&of_network) && !keys.contains(owner_key(comment)),
            None => named.contains(chain) && !in_use.contains(chain),
        };
        table.names().filter(|chain| self.fits(chain) && stale(chain)).map(str::to_owned).collect()
    }
}

/// The chains in or to which a rule has `text` in its comment.
fn chains_with_comment<'a>(table: &'a Table, text: &str) -> BTreeSet<&'a str> {
    let named = table.all_rules().filter(|rule| rule.comment().is_some_and(|comment| comment.contains(text)));
    named.flat_map(|rule| [Some(rule.chain.as_str()), rule.target()]).flatten().collect()
}

/// The rule at the end of `chain` that says whose it is. It has no target, so packets pass it.
pub(crate) fn owner_rule(chain: &str, owner: &Owner) -> Rule {
    Rule::commented(chain, &[], &owner.comment(), &[])
}

/// What the comment of a link rule begins with.
const LINK: &str = "link: ";

/// The rule behind the owner rule that says by which link of the node the container is reached.
pub(crate) fn link_rule(chain: &str, link: u32) -> Rule {
    Rule::commented(chain, &[], &format!("{LINK}{link}"), &[])
}

/// The link that a link rule in `chain` names.
pub(crate) fn link_of(table: &Table, chain: &str) -> Option<u32> {
    let mut comments = table.rules(chain).filter(|rule| rule.target().is_none()).filter_map(Rule::comment);
    comments.find_map(|comment| comment.strip_prefix(LINK)?.parse().ok())
}

/// The comment of the owner rule in `chain`; `None` for a chain that Go made.
pub(crate) fn owner_comment<'a>(table: &'a Table, chain: &str) -> Option<&'a str> {
    let mut bare = table.rules(chain).filter(|rule| rule.args.len() == 4 && rule.target().is_none());
    bare.find_map(Rule::comment).filter(|comment| !comment.starts_with(LINK))
}

/// The key ([`Owner::key`]) of the owner that wrote `comment`.
pub(crate) fn owner_key(comment: &str) -> &str {
    comment.split(',').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::tests::owner;
    use crate::iptables::{masquerade, ports};

    const MASQUERADE: &ChainKind = &masquerade::CHAINS;
    const PORTS: &ChainKind = &ports::CHAINS;

    #[test]
    fn the_shared_name_is_gos() {
        // Made by the Go plugins 1.1.1 for this network and container (testdata/go-v4.save).
        assert_eq!(MASQUERADE.shared_name(&owner("c1abc", "eth0")), "CNI-2b532654759c10326b66367a");
        assert_eq!(PORTS.shared_name(&owner("c1abc", "eth1")), "CNI-DN-2b532654759c10326b663");
        assert_ne!(PORTS.own_name(&owner("c1abc", "eth0")), PORTS.own_name(&owner("c1abc", "eth1")));
    }

    #[test]
    fn kinds_know_their_names() {
        assert!(MASQUERADE.fits("CNI-2b532654759c10326b66367a"));
        for other in ["CNI-HOSTPORT-DNAT", "CNI-DN-2b532654759c10326b663", "CNI-2b53", "CNI-2b532654759c10326b66367z"] {
            assert!(!MASQUERADE.fits(other), "{other}");
        }
        assert!(PORTS.fits("CNI-DN-2b532654759c10326b663"));
        assert!(PORTS.fits("CNI-SN-2b532654759c10326b663"));
    }

    #[test]
    fn gos_chain_belongs_to_every_interface_of_its_container() {
        let table = Table::parse("nat", include_str!("../testdata/go-v4.save"));
        for ifname in ["eth0", "eth1"] {
            assert_eq!(PORTS.of_owner(&table, &owner("c1abc", ifname)), ["CNI-DN-2b532654759c10326b663"]);
        }
        assert!(PORTS.of_owner(&table, &owner("other", "eth0")).is_empty());

        let network = owner("c1abc", "eth0").network;
        assert!(PORTS.of_others(&table, &network, &[owner("c1abc", "eth7")]).is_empty());
        assert_eq!(PORTS.of_others(&table, &network, &[owner("c2", "eth0")]).len(), 1);
        assert_eq!(MASQUERADE.of_others(&table, &network, &[]).len(), 1);
        assert!(PORTS.of_others(&table, &"other-net".parse().unwrap(), &[]).is_empty());
    }

    #[test]
    fn an_owned_chain_belongs_to_its_owner_only() {
        let (first, second) = (owner("c1", "eth0"), owner("c1", "eth1"));
        let name = PORTS.shared_name(&first);
        let table = Table::parse("nat", &owner_rule(&name, &first).to_string());
        assert_eq!(PORTS.owned(&table, &first), [name]);
        assert!(PORTS.of_owner(&table, &second).is_empty());
        assert_eq!(PORTS.of_others(&table, &first.network, &[second]).len(), 1);
        assert!(PORTS.of_others(&table, &first.network, std::slice::from_ref(&first)).is_empty());
    }
}
