//! The Ethernet address of a container's interface: the configured one, or one that follows from its owner.

use cni_net::{mac_of, unusable_mac};
use cni_plugin::{ArgsError, CniArgs, MacAddr, NameError, Owner};

/// Names the node: an owner's names may be the same on two nodes of one network, as where a user chooses the container's ID.
const MACHINE_ID: &str = "/etc/machine-id";

/// Why an address is refused.
#[derive(Debug, thiserror::Error)]
pub enum MacError {
    /// `CNI_ARGS`.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// It is none.
    #[error("{channel}: {source}")]
    Malformed {
        /// `mac`, `runtimeConfig.mac`, `args.cni.mac` or `CNI_ARGS MAC`.
        channel: &'static str,
        /// The rule that it breaks.
        source: NameError,
    },
    /// No interface can have it.
    #[error(
        "{channel}: MAC address {mac} cannot be assigned to an interface: {why}; use one such as 02:00:00:00:00:01"
    )]
    Unusable {
        /// As above.
        channel: &'static str,
        /// The address.
        mac: MacAddr,
        /// The rule that it breaks.
        why: &'static str,
    },
}

/// `MAC` of `CNI_ARGS`; empty if there is none.
///
/// # Errors
/// [`MacError::Args`].
pub fn from_args(args: &CniArgs) -> Result<String, MacError> {
    Ok(args.parse(&["MAC"])?.remove("MAC").unwrap_or_default())
}

/// The address that the first of these channels gives which isn't empty.
///
/// # Errors
/// [`MacError`], with the channel's name.
pub fn first_of<'a>(channels: impl IntoIterator<Item = (&'static str, &'a str)>) -> Result<Option<MacAddr>, MacError> {
    let Some((channel, text)) = channels.into_iter().find(|(_, text)| !text.is_empty()) else { return Ok(None) };
    let mac: MacAddr = text.parse().map_err(|source| MacError::Malformed { channel, source })?;
    match unusable_mac(mac) {
        Some(why) => Err(MacError::Unusable { channel, mac, why }),
        None => Ok(Some(mac)),
    }
}

/// The address that this owner's interface has on this node: always the same one, so that a container that is created again
/// keeps its place in the neighbours' tables, in a DHCP server's leases and in a switch. Locally administered unicast.
pub fn of_owner(owner: &Owner) -> MacAddr {
    of_node(&owner.key())
}

/// The address that follows from this text on this node.
pub fn of_node(text: &str) -> MacAddr {
    let machine = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
    mac_of(&[text, machine.trim()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_channel_that_says_something_counts() {
        let found = first_of([("runtimeConfig.mac", ""), ("mac", "02:00:00:00:00:02"), ("x", "none")]).unwrap();
        assert_eq!(found.unwrap().to_string(), "02:00:00:00:00:02");
        assert_eq!(first_of([("mac", "")]).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_an_address_is_named_with_its_channel() {
        for (mac, named) in [("x", "\"x\""), ("01:00:5e:00:00:01", "multicast"), ("00:00:00:00:00:00", "zero")] {
            let error = first_of([("args.cni.mac", mac)]).unwrap_err().to_string();
            assert!(error.starts_with("args.cni.mac: ") && error.contains(mac) && error.contains(named), "{error}");
        }
    }

    #[test]
    fn an_owner_has_one_address_and_another_owner_another() {
        let owner = |id: &str| Owner {
            network: "net".parse().unwrap(),
            container_id: id.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        assert_eq!(of_owner(&owner("c1")), of_owner(&owner("c1")));
        assert_ne!(of_owner(&owner("c1")), of_owner(&owner("c2")));
        assert_eq!(of_owner(&owner("c1")).0[0] & 3, 2);
    }
}
