//! The owner of whatever a plugin creates: the attachment of one container's interface to one network.

use std::fmt;

use sha2::{Digest, Sha512};

use crate::protocol::names::{ContainerId, IfName, NetworkName};

/// The owner of everything that an attachment creates: rules, map elements, links and reservations carry it, and DEL
/// and GC find them by it alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The network's name, from the configuration.
    pub network: NetworkName,
    /// The container, from `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// The interface in the container, from `CNI_IFNAME`.
    pub ifname: IfName,
}

impl Owner {
    /// The longest comment that the `nft` tool can read back (`NFTNL_UDATA_COMMENT_MAXLEN`).
    pub const COMMENT_MAX: usize = 128;

    /// The owner as 33 characters: 16 hexadecimal digits for the network, `-`, 16 for the interface and container.
    ///
    /// The same key as the Go plugins put at the head of their nftables masquerade comments.
    pub fn key(&self) -> String {
        Self::network_key(&self.network) + &Self::attachment_key(&self.container_id, &self.ifname)
    }

    /// What follows that of the network in [`Owner::key`]: 16 hexadecimal digits.
    pub fn attachment_key(container_id: &ContainerId, ifname: &IfName) -> String {
        sha512_hex(&[ifname.as_str(), ":", container_id.as_str()], 16)
    }

    /// What the keys of all owners of `network` begin with: 16 hexadecimal digits and `-`.
    pub fn network_key(network: &NetworkName) -> String {
        format!("{}-", sha512_hex(&[network.as_str()], 16))
    }

    /// The owner as a rule's comment: the key, then the names for a reader, cut to what the `nft` tool accepts.
    pub fn comment(&self) -> String {
        let mut text = format!("{}, id: {}, if: {}, net: {}", self.key(), self.container_id, self.ifname, self.network);
        let mut end = text.len().min(Self::COMMENT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    }

    /// True if `comment` is one that [`Owner::comment`] wrote for this owner.
    pub fn wrote(&self, comment: &str) -> bool {
        comment.split(',').next() == Some(self.key().as_str())
    }
}

/// The holder as messages name it: `container 3f2a… (eth0)`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {} ({}) of network {}", self.container_id, self.ifname, self.network)
    }
}

/// The first `digits` hexadecimal digits of the SHA-512 of the concatenated `parts`, in lower case.
///
/// Chain names are derived from it, as in the Go plugins.
pub fn sha512_hex(parts: &[&str], digits: usize) -> String {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    let hash = hash.finalize();
    let mut text = hex::encode(&hash[..digits.div_ceil(2).min(hash.len())]);
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str) -> Owner {
        Owner {
            network: "testnet".parse().unwrap(),
            container_id: id.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    #[test]
    fn the_key_is_the_truncated_sha512_of_network_and_attachment() {
        // printf testnet | sha512sum; printf eth0:c1 | sha512sum
        assert_eq!(owner("c1").key(), "c5964c6794a1152e-f4d01f2ef4b92245");
        assert!(owner("c1").key().starts_with(&Owner::network_key(&owner("c1").network)));
    }

    #[test]
    fn a_comment_names_the_holder_and_fits() {
        let long = owner(&"f".repeat(64));
        assert!(long.comment().len() <= 128);
        assert!(long.comment().contains(&"f".repeat(64)));
        assert!(long.wrote(&long.comment()));
        assert!(!owner("c2").wrote(&owner("c1").comment()));
    }
}
