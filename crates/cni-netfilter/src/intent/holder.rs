//! When a port or address that an owner holds is taken over by another owner, and what the former holder loses.
//!
//! An owner whose container is gone may still hold something, because a runtime or a node died before it called DEL.
//! * A **published port** stays with its holder until the holder's link, which the holder registered, is gone for certain.
//! * A **masqueraded address** goes to the new owner, to which IPAM has given it; but another network may have the same
//!   subnet, so a holder of another network keeps the address while the node has the holder's link.
//! * A **forwarded address** and a **bridge's port** always go to the new owner: for the accept of an address it is
//!   irrelevant whose it is, and a link's name belongs to the link that has it now.

use cni_plugin::Owner;

use super::PortForward;

/// Whether the container of an owner is still on the node, given the owner's key ([`Owner::key`]; empty if unknown) and the
/// index of the node's end of its link, if that is known. True if it cannot be determined. Called in the network namespace of
/// the packet filter, from any thread.
pub type IsThere = fn(key: &str, link: Option<u32>) -> bool;

/// An owner that has what another one asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder<'a> {
    /// [`Owner::key`]; empty if the rules don't say it.
    pub(crate) key: &'a str,
    /// The index of the node's end of its link, if it has registered one.
    pub(crate) link: Option<u32>,
}

impl Holder<'_> {
    /// True if a port that it publishes may be given to another container.
    pub(crate) fn yields_port(self, is_there: IsThere) -> bool {
        self.link.is_some_and(|link| !is_there(self.key, Some(link)))
    }

    /// True if an address that is masqueraded for it is now that of `new`.
    pub(crate) fn yields_address(self, new: &Owner, is_there: IsThere) -> bool {
        self.key.starts_with(&Owner::network_key(&new.network)) || !is_there(self.key, None)
    }
}

/// A former holder of published ports, and what it lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Displaced {
    /// The owner in words.
    pub holder: String,
    /// What was published for it.
    pub ports: Vec<PortForward>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: IsThere = |_, _| false;
    const THERE: IsThere = |_, _| true;

    fn owner(network: &str) -> Owner {
        Owner {
            network: network.parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    #[test]
    fn a_port_is_given_up_by_a_link_that_is_gone_for_certain() {
        let holder = |link| Holder { key: "k", link };
        assert!(holder(Some(7)).yields_port(GONE));
        assert!(!holder(Some(7)).yields_port(THERE));
        assert!(!holder(None).yields_port(GONE), "a container without a known link may live");
    }

    #[test]
    fn an_address_is_given_up_within_the_network_and_by_a_link_that_is_gone() {
        let key = owner("red").key();
        let holder = Holder { key: &key, link: None };
        assert!(holder.yields_address(&owner("red"), THERE), "IPAM gave it to another container of the network");
        assert!(!holder.yields_address(&owner("blue"), THERE));
        assert!(holder.yields_address(&owner("blue"), GONE));
    }
}
