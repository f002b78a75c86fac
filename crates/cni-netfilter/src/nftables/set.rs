//! Sets and maps as data, and the messages that create them.

use netlink_packet_netfilter::nftables::{NfTablesMessage, SetAttribute, SetDescription, SetFlags, SetMessage};

use super::expr::Ip;
use super::frame::TableId;
use super::raw;

/// A type of data of the nft language, with the number that `nft` knows it by (`enum datatypes`) and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataType {
    Address(Ip),
    Ethernet,
    Protocol,
    Port,
    Interface,
    Mark,
}

impl DataType {
    fn number(self) -> u32 {
        match self {
            Self::Address(Ip::V4) => 7,
            Self::Address(Ip::V6) => 8,
            Self::Ethernet => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Interface => 41,
        }
    }

    /// In a set, rounded up to whole registers.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::Address(ip) => ip.length(),
            Self::Protocol | Self::Port | Self::Mark => 4,
            Self::Ethernet => 8,
            Self::Interface => 16,
        }
    }

    /// `nft`'s byte order of a single type; a concatenation has none (0).
    fn byte_order(types: &[Self]) -> u32 {
        const HOST: u32 = 1;
        const NETWORK: u32 = 2;
        match types {
            [Self::Interface | Self::Protocol | Self::Mark | Self::Ethernet] => HOST,
            [_] => NETWORK,
            _ => 0,
        }
    }

    /// The number and the length of a concatenation: 6 bits for each part (`TYPE_BITS`).
    fn concatenated(types: &[Self]) -> (u32, u32) {
        types.iter().fold((0, 0), |(number, length), part| (number << 6 | part.number(), length + part.length()))
    }
}

/// What a set maps its keys to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Maps {
    Nothing,
    ToVerdict,
    To(&'static [DataType]),
}

/// A named set or map. Without a declared size the kernel uses a hash table that grows.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) key: &'static [DataType],
    pub(super) maps: Maps,
    pub(super) comment: &'static str,
}

impl Set {
    /// `NFT_DATA_VERDICT`.
    const VERDICT: u32 = 0xffff_ff00;
    /// Length of a verdict: `sizeof(struct nft_verdict)`.
    const VERDICT_LENGTH: u32 = 16;

    /// What makes it this set and no other; the kernel lists it in the same words.
    pub(super) fn shape(&self) -> Vec<SetAttribute> {
        let (key_type, key_length) = DataType::concatenated(self.key);
        let mut shape = vec![SetAttribute::KeyType(key_type), SetAttribute::KeyLen(key_length)];
        let value = match &self.maps {
            Maps::Nothing => return shape,
            Maps::ToVerdict => (Self::VERDICT, Self::VERDICT_LENGTH),
            Maps::To(types) => DataType::concatenated(types),
        };
        shape.extend([
            SetAttribute::Flags(SetFlags::Map),
            SetAttribute::DataType(value.0),
            SetAttribute::DataLen(value.1),
        ]);
        shape
    }

    /// True if the kernel's listing is of a set like this one: of the same type, and without a size, timeouts or the like.
    pub(super) fn is_like(&self, listed: &[SetAttribute]) -> bool {
        let is_odd = |attribute: &SetAttribute| match attribute {
            SetAttribute::Flags(_) => self.maps == Maps::Nothing,
            SetAttribute::Description(parts) => parts.iter().any(|part| matches!(part, SetDescription::Size(_))),
            _ => false,
        };
        self.shape().iter().all(|attribute| listed.contains(attribute)) && !listed.iter().any(is_odd)
    }

    /// The message that creates it.
    pub(super) fn create(&self, table: TableId, id: u32) -> NfTablesMessage {
        let value_order = match &self.maps {
            // A verdict has no byte order, and nft fails an assertion if it gets one.
            Maps::Nothing | Maps::ToVerdict => None,
            Maps::To(types) => Some(DataType::byte_order(types)),
        };
        let user_data = raw::set_user_data(DataType::byte_order(self.key), value_order, self.comment);
        let mut attributes = vec![SetAttribute::Table(table.name.to_owned()), SetAttribute::Name(self.name.to_owned())];
        attributes.extend(self.shape());
        // The kernel wants an identifier, unique in the transaction.
        attributes.extend([SetAttribute::Id(id), SetAttribute::UserData(user_data)]);
        NfTablesMessage::NewSet(SetMessage { attributes })
    }
}
