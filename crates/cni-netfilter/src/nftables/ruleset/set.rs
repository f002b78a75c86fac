//! Sets and maps, and the messages that create them.

use std::fmt;

use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{NfTablesMessage, SetAttribute, SetDescription, SetFlags, SetMessage};

use super::text::{concatenation, expressions, type_names};
use super::{DataType, Element, Value, user_data};
use crate::nftables::wire::Table;

/// What a set maps its keys to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Maps {
    Nothing,
    ToVerdict,
    To(&'static [DataType]),
}

/// A named set or map. Without a declared size the kernel uses a hash table that grows.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [DataType],
    pub(crate) maps: Maps,
    pub(crate) comment: &'static str,
}

impl Set {
    /// `NFT_DATA_VERDICT`.
    const VERDICT: u32 = 0xffff_ff00;
    /// Length of a verdict: `sizeof(struct nft_verdict)`.
    const VERDICT_LENGTH: u32 = 16;

    /// What makes it this set and no other; the kernel lists it in the same words.
    fn shape(&self) -> Vec<SetAttribute> {
        let (key_type, key_length) = DataType::concatenated(self.key);
        let mut shape = vec![SetAttribute::KeyType(key_type), SetAttribute::KeyLen(key_length)];
        let (data_type, length) = match &self.maps {
            Maps::Nothing => return shape,
            Maps::ToVerdict => (Self::VERDICT, Self::VERDICT_LENGTH),
            Maps::To(types) => DataType::concatenated(types),
        };
        shape.extend([
            SetAttribute::Flags(SetFlags::Map),
            SetAttribute::DataType(data_type),
            SetAttribute::DataLen(length),
        ]);
        shape
    }

    /// True if a listed set is like this one: of the same type, and without a size, timeouts or the like.
    pub(crate) fn is_like(&self, listed: &SetMessage) -> bool {
        let is_odd = |attribute: &SetAttribute| match attribute {
            SetAttribute::Flags(_) => self.maps == Maps::Nothing,
            SetAttribute::Description(parts) => parts.iter().any(|part| matches!(part, SetDescription::Size(_))),
            _ => false,
        };
        let listed = &listed.attributes;
        self.shape().iter().all(|attribute| listed.contains(attribute)) && !listed.iter().any(is_odd)
    }

    /// True if it is of a `typeof`: its key has a type without a name.
    fn is_of_expressions(&self) -> bool {
        self.key.contains(&DataType::Number)
    }

    /// What creates it.
    pub(super) fn message(&self, table: Table<'_>, id: u32) -> SetMessage {
        let value_order = match &self.maps {
            // A verdict has no byte order, and nft fails an assertion if it gets one.
            Maps::Nothing | Maps::ToVerdict => None,
            Maps::To(types) => Some(DataType::byte_order(types)),
        };
        let mut user_data = user_data::of_set(DataType::byte_order(self.key), value_order, self.comment);
        if let (true, Maps::To(types)) = (self.is_of_expressions(), &self.maps) {
            user_data.extend(user_data::of_expressions(self.key, types));
        }
        let mut attributes = self.place(table);
        attributes.extend(self.shape());
        // The kernel wants an identifier, unique in the transaction.
        attributes.extend([SetAttribute::Id(id), SetAttribute::UserData(user_data)]);
        SetMessage { attributes }
    }

    /// A request for it.
    pub(super) fn request(&self, table: Table<'_>) -> NetfilterMessage {
        table.request(NfTablesMessage::GetSet(SetMessage { attributes: self.place(table) }))
    }

    fn place(&self, table: Table<'_>) -> Vec<SetAttribute> {
        vec![SetAttribute::Table(table.name.to_owned()), SetAttribute::Name(self.name.to_owned())]
    }

    /// Prints it with these elements.
    pub(crate) fn print<'a>(
        &self,
        f: &mut fmt::Formatter<'_>,
        elements: impl Iterator<Item = &'a Element>,
    ) -> fmt::Result {
        let (word, value, maps_to): (_, &[DataType], _) = match &self.maps {
            Maps::Nothing => ("set", &[], String::new()),
            Maps::ToVerdict => ("map", &[], " : verdict".to_owned()),
            Maps::To(types) if self.is_of_expressions() => ("map", types, format!(" : {}", expressions(types))),
            Maps::To(types) => ("map", types, format!(" : {}", type_names(types))),
        };
        let of = if self.is_of_expressions() {
            format!("typeof {}", expressions(self.key))
        } else {
            format!("type {}", type_names(self.key))
        };
        writeln!(f, "\t{word} {} {{\n\t\t{of}{maps_to}\n\t\tcomment {:?}", self.name, self.comment)?;
        let text = |element: &Element| {
            let value = match &element.value {
                Value::Nothing => String::new(),
                Value::Data(bytes) => format!(" : {}", concatenation(value, bytes)),
                Value::Goto(chain) => format!(" : goto {chain}"),
            };
            format!("{} comment {:?}{value}", concatenation(self.key, &element.key.bytes), element.comment)
        };
        let texts: Vec<String> = elements.map(text).collect();
        if !texts.is_empty() {
            writeln!(f, "\t\telements = {{ {} }}", texts.join(",\n\t\t\t     "))?;
        }
        writeln!(f, "\t}}")
    }
}
