//! Elements of sets and maps: what belongs to a single container. Each carries its owner in its comment.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage, Verdict,
};
use rustix::io::Errno;

use super::{expression, user_data};
use crate::nftables::wire::attribute::{all, c_string, data, first};
use crate::nftables::wire::{Batch, NftError, Raw, Socket, Table};

/// Elements in one message: their list is one attribute, of 64 KiB at most, and an element with its comment and the
/// name of a chain takes up to 300 bytes.
const PER_MESSAGE: usize = 200;

/// Which set or map of this plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SetId {
    pub(crate) table: Table<'static>,
    pub(crate) name: &'static str,
}

/// An element's set and its key in that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) set: SetId,
    /// In network byte order, each part of a concatenation padded to 4 bytes.
    pub(crate) bytes: Vec<u8>,
}

impl Key {
    pub(crate) fn new(set: SetId, bytes: Vec<u8>) -> Self {
        Self { set, bytes }
    }
}

/// What an element's key is mapped to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing: the element of a plain set.
    Nothing,
    Data(Vec<u8>),
    Goto(String),
}

/// An element as it should be.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub(crate) key: Key,
    pub(crate) value: Value,
    /// Of its owner.
    pub(crate) comment: String,
    /// What it is for, in the words of a message.
    pub(crate) name: String,
}

/// An element as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Key,
    pub(crate) value: Value,
    pub(crate) comment: String,
}

fn message(table: Table<'_>, set: &str, elements: Vec<ListAttribute<SetElementAttribute>>) -> SetElementMessage {
    let mut attributes = vec![SetElementList::Table(table.name.to_owned()), SetElementList::Set(set.to_owned())];
    if !elements.is_empty() {
        attributes.push(SetElementList::Elements(elements));
    }
    SetElementMessage { attributes }
}

fn key_attribute(bytes: &[u8]) -> SetElementAttribute {
    SetElementAttribute::Key(DataAttribute::Value(bytes.to_vec()))
}

impl Element {
    fn attributes(&self) -> ListAttribute<SetElementAttribute> {
        let mut attributes = vec![key_attribute(&self.key.bytes)];
        match &self.value {
            Value::Nothing => {}
            Value::Data(bytes) => attributes.push(SetElementAttribute::Data(DataAttribute::Value(bytes.clone()))),
            Value::Goto(chain) => attributes.push(SetElementAttribute::Data(expression::goto_verdict(chain))),
        }
        attributes.push(SetElementAttribute::UserData(user_data::comment(&self.comment)));
        ListAttribute::Element(attributes)
    }
}

impl Batch {
    /// Adds messages that create `elements`; the kernel refuses with `EEXIST` (same value) or `EBUSY` (another value) if
    /// one exists, and with `ENOENT` if the set or a chain that it goes to does not.
    pub(crate) fn create_elements<'a>(&mut self, elements: impl IntoIterator<Item = &'a Element>) {
        for (SetId { table, name }, chunk) in chunks(elements, |element| element.key.set) {
            let what = match chunk[..] {
                [one] => format!("publish {}", one.name),
                _ => format!("add {} elements from {} on to {table} {name}", chunk.len(), chunk[0].name),
            };
            let message = message(table, name, chunk.into_iter().map(Element::attributes).collect());
            self.push(table, what, NLM_F_CREATE | NLM_F_EXCL, NfTablesMessage::NewSetElement(message));
        }
    }

    /// Adds messages that delete the elements with these keys; `ENOENT` if one does not exist.
    pub(crate) fn delete_elements<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        for (SetId { table, name }, chunk) in chunks(keys, |key| key.set) {
            let what = format!("delete {} elements of {table} {name}", chunk.len());
            let elements =
                chunk.into_iter().map(|key| ListAttribute::Element(vec![key_attribute(&key.bytes)])).collect();
            let message = NfTablesMessage::DeleteSetElement(message(table, name, elements));
            self.push(table, what, 0, message);
        }
    }
}

/// Splits into consecutive items of one set, not too many for a message.
fn chunks<T>(items: impl IntoIterator<Item = T>, set_of: impl Fn(&T) -> SetId) -> Vec<(SetId, Vec<T>)> {
    let mut chunks: Vec<(SetId, Vec<T>)> = Vec::new();
    for item in items {
        let set = set_of(&item);
        match chunks.last_mut() {
            Some((last, chunk)) if *last == set && chunk.len() < PER_MESSAGE => chunk.push(item),
            _ => chunks.push((set, vec![item])),
        }
    }
    chunks
}

/// Looks up keys in constant time each: the element, or `None` if it, its set or its table does not exist, or if a set that this
/// plugin did not make has keys of another length.
pub(crate) fn look_up<'a>(
    socket: &Socket,
    keys: impl IntoIterator<Item = &'a Key>,
) -> Result<Vec<Option<Found>>, NftError> {
    let keys: Vec<&Key> = keys.into_iter().collect();
    let request = |key: &&Key| {
        let elements = vec![ListAttribute::Element(vec![key_attribute(&key.bytes)])];
        let SetId { table, name } = key.set;
        table.request(NfTablesMessage::GetSetElement(message(table, name, elements)))
    };
    let requests: Vec<NetfilterMessage> = keys.iter().map(request).collect();
    let answers = socket.ask_raw("look an element up", requests)?;
    let read = |(key, answer): (&&Key, Result<Raw, NftError>)| match answer {
        Ok(message) => Ok(read(key.set, &message).pop()),
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::INVAL)) => Ok(None),
        Err(error) => Err(error),
    };
    keys.iter().zip(answers).map(read).collect()
}

/// Reads the whole set; a set that does not exist is empty. May contain an element twice (see [`Socket::dump`]).
pub(crate) fn dump(socket: &Socket, set: SetId) -> Result<Vec<Found>, NftError> {
    let mut found = Vec::new();
    dump_messages(socket, set.table, set.name, |message| found.extend(read(set, message)))?;
    Ok(found)
}

/// The keys of any program's set or map, anonymous ones included.
pub(crate) fn keys_of_any(socket: &Socket, table: Table<'_>, set: &str) -> Result<Vec<Vec<u8>>, NftError> {
    let mut keys = Vec::new();
    dump_messages(socket, table, set, |message| keys.extend(listed(message).filter_map(read_key).map(<[u8]>::to_vec)))?;
    Ok(keys)
}

fn dump_messages(socket: &Socket, table: Table<'_>, set: &str, mut visit: impl FnMut(&Raw)) -> Result<(), NftError> {
    let request = table.request(NfTablesMessage::GetSetElement(message(table, set, Vec::new())));
    socket.dump(&format!("list {table} {set}"), &request, |message| {
        visit(&message);
        Ok(())
    })
}

/// The attributes of each element in a message.
fn listed(message: &Raw) -> impl Iterator<Item = &[u8]> {
    // NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM
    all(message.attributes(), 3).flat_map(|list| all(list, 1))
}

/// The elements of `set` in a message.
pub(crate) fn read(set: SetId, message: &Raw) -> Vec<Found> {
    listed(message).filter_map(|attributes| read_element(set, attributes)).collect()
}

fn read_key(attributes: &[u8]) -> Option<&[u8]> {
    // NFTA_SET_ELEM_KEY
    data(attributes, 1)
}

fn read_element(set: SetId, attributes: &[u8]) -> Option<Found> {
    // NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_USERDATA, NFTA_DATA_VALUE, NFTA_DATA_VERDICT
    let value = match first(attributes, 2) {
        None => Value::Nothing,
        Some(data) => match first(data, 2) {
            Some(verdict) => read_verdict(verdict),
            None => Value::Data(first(data, 1)?.to_vec()),
        },
    };
    let comment = first(attributes, 6).and_then(user_data::read_comment).unwrap_or_default();
    Some(Found { key: Key::new(set, read_key(attributes)?.to_vec()), value, comment })
}

/// The chain of a `goto`. This plugin creates no other verdict; for those it returns an empty value, which equals none of its own.
fn read_verdict(verdict: &[u8]) -> Value {
    // NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN
    match (first(verdict, 1), first(verdict, 2)) {
        (Some(code), Some(chain)) if *code == u32::from(Verdict::Goto).to_be_bytes() => {
            Value::Goto(c_string(chain).to_owned())
        }
        _ => Value::Data(Vec::new()),
    }
}
