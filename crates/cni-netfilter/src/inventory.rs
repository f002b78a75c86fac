//! Who has rules: what this plugin and the Go plugins have in both backends, with as much of the owner as their comments tell.

use cni_plugin::{Family, Owner};

use crate::iptables::{Iptables, legacy_in_use};
use crate::{FilterError, Netfilter, Nftables};

/// Whose something is, as far as its comment tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The attachment.
    Owner(Owner),
    /// The attachment by its key ([`Owner::key`]): the comment is cut before the end of the names.
    Key {
        /// The key.
        key: String,
        /// The container, if it was not cut.
        container: Option<String>,
        /// The interface, if it was not cut.
        ifname: Option<String>,
    },
    /// A container on a network: Go's chains are of all its interfaces there.
    OfNetwork {
        /// The network.
        network: String,
        /// The container.
        container: String,
    },
    /// A container: Go's published ports in nftables.
    Container(String),
    /// A comment that says nothing of an owner.
    Unknown(String),
}

impl Who {
    /// Reads a comment of [`Owner::comment`] or of the Go plugins', which have the same names after the same key in another order.
    pub fn of_comment(comment: &str) -> Self {
        let key = comment.split(',').next().unwrap_or_default();
        if !is_key(key) {
            return Self::Unknown(comment.to_owned());
        }
        let parts: Vec<&str> = comment.split(", ").skip(1).collect();
        let name = |of: &str| parts.iter().position(|part| part.starts_with(of)).map(|at| (at, &parts[at][of.len()..]));
        let (id, ifname, network) = (name("id: "), name("if: "), name("net: "));
        let owner = || {
            let (network, container_id) = (network?.1.parse().ok()?, id?.1.parse().ok()?);
            Some(Owner { network, container_id, ifname: ifname?.1.parse().ok()? }).filter(|owner| owner.key() == key)
        };
        // The last part may have been cut.
        let whole =
            |name: Option<(usize, &str)>| name.filter(|(at, _)| at + 1 < parts.len()).map(|(_, text)| text.to_owned());
        let by_key = || Self::Key { key: key.to_owned(), container: whole(id), ifname: whole(ifname) };
        owner().map_or_else(by_key, Self::Owner)
    }
}

/// True for the text of [`Owner::key`].
pub fn is_key(text: &str) -> bool {
    let is_hash = |part: &str| part.len() == 16 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    text.split_once('-').is_some_and(|(network, attachment)| is_hash(network) && is_hash(attachment))
}

/// What an owner has in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Whose it is.
    pub who: Who,
    /// Where: the backend, and the table or chain.
    pub place: String,
    /// How many elements or rules.
    pub count: usize,
}

impl Netfilter {
    /// What owners have in both backends. Reads all of it; the iptables tools are started only where the kernel has chains that they made.
    /// Changes nothing.
    ///
    /// # Errors
    /// If one of the backends is there and can't be read.
    pub fn inventory(&self) -> Result<Vec<Owned>, FilterError> {
        let nftables = match Nftables::open() {
            Err(error) if error.is_absent() => None,
            opened => Some(opened?),
        };
        let mut found = nftables.as_ref().map(Nftables::inventory).transpose()?.unwrap_or_default();
        for family in Family::ALL {
            let has_chains = nftables.as_ref().is_some_and(|nft| nft.has_chains_of_iptables(family, "CNI-"));
            if has_chains || legacy_in_use(family, "nat") || legacy_in_use(family, "filter") {
                found.extend(Iptables::inventory(family)?);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str) -> Owner {
        let (network, ifname) = ("net".parse().unwrap(), "eth0".parse().unwrap());
        Owner { network, container_id: id.parse().unwrap(), ifname }
    }

    #[test]
    fn an_owner_is_read_from_its_comment_or_at_least_its_key() {
        let short = owner("c1");
        assert_eq!(Who::of_comment(&short.comment()), Who::Owner(short.clone()));
        let go = format!("{}, net: net, if: eth0, id: c1", short.key());
        assert_eq!(Who::of_comment(&go), Who::Owner(short));
        let docker = Owner { network: "a-long-name".parse().unwrap(), ..owner(&"f".repeat(64)) };
        let (container, ifname) = (Some("f".repeat(64)), Some("eth0".to_owned()));
        assert_eq!(Who::of_comment(&docker.comment()), Who::Key { key: docker.key(), container, ifname });
        let long = owner(&"f".repeat(100));
        assert_eq!(Who::of_comment(&long.comment()), Who::Key { key: long.key(), container: None, ifname: None });
        assert_eq!(Who::of_comment("by hand"), Who::Unknown("by hand".to_owned()));
    }
}
