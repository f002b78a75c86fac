//! Elements of sets and maps: what belongs to a single container. Each carries its owner in its comment.

use netlink_packet_core::{NLA_TYPE_MASK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage, Verdict,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage};
use rustix::io::Errno;

use super::answer::Raw;
use super::batch::Batch;
use super::error::NftError;
use super::expr;
use super::frame::TableId;
use super::raw;
use super::transport::Socket;

/// Elements in one message: their list is one attribute, of 64 KiB at most, and an element with its comment and the
/// name of a chain takes up to 300 bytes.
const PER_MESSAGE: usize = 200;

/// A set or map of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SetId {
    pub(super) table: TableId,
    pub(super) name: &'static str,
}

/// What an element's key is mapped to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing: the element of a plain set.
    Nothing,
    Data(Vec<u8>),
    Goto(String),
}

/// An element as it should be.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) set: SetId,
    /// In network byte order, each part of a concatenation padded to 4 bytes.
    pub(super) key: Vec<u8>,
    pub(super) value: Value,
    /// Of its owner.
    pub(super) comment: String,
    /// What it is for, in the words of a message.
    pub(super) name: String,
}

/// An element as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: Vec<u8>,
    pub(super) value: Value,
    pub(super) comment: String,
}

fn message_for(set: SetId, elements: Vec<ListAttribute<SetElementAttribute>>) -> SetElementMessage {
    let mut attributes =
        vec![SetElementList::Table(set.table.name.to_owned()), SetElementList::Set(set.name.to_owned())];
    if !elements.is_empty() {
        attributes.push(SetElementList::Elements(elements));
    }
    SetElementMessage { attributes }
}

fn key_of(key: &[u8]) -> SetElementAttribute {
    SetElementAttribute::Key(DataAttribute::Value(key.to_vec()))
}

impl Element {
    fn attributes(&self) -> ListAttribute<SetElementAttribute> {
        let mut attributes = vec![key_of(&self.key)];
        match &self.value {
            Value::Nothing => {}
            Value::Data(bytes) => attributes.push(SetElementAttribute::Data(DataAttribute::Value(bytes.clone()))),
            Value::Goto(chain) => attributes.push(SetElementAttribute::Data(expr::goto_verdict(chain))),
        }
        attributes.push(SetElementAttribute::UserData(raw::comment(&self.comment)));
        ListAttribute::Element(attributes)
    }
}

/// Adds messages that create `elements`; the kernel refuses with `EEXIST` (same value) or `EBUSY` (another value) if
/// one exists, and with `ENOENT` if the set or a chain that it goes to does not.
pub(super) fn create<'a>(elements: impl IntoIterator<Item = &'a Element>, batch: &mut Batch) {
    for (set, chunk) in chunks(elements.into_iter().map(|element| (element.set, element))) {
        let what = match chunk[..] {
            [one] => format!("publish {}", one.name),
            _ => format!("add {} elements from {} on to {} {}", chunk.len(), chunk[0].name, set.table, set.name),
        };
        let message = message_for(set, chunk.into_iter().map(Element::attributes).collect());
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        batch.push(what, set.table.family.number(), flags, NfTablesMessage::NewSetElement(message));
    }
}

/// Adds messages that delete the elements with these keys; `ENOENT` if one does not exist.
pub(super) fn delete<'a>(keys: impl IntoIterator<Item = (SetId, &'a [u8])>, batch: &mut Batch) {
    for (set, chunk) in chunks(keys) {
        let what = format!("delete {} elements of {} {}", chunk.len(), set.table, set.name);
        let elements = chunk.into_iter().map(|key| ListAttribute::Element(vec![key_of(key)])).collect();
        let message = NfTablesMessage::DeleteSetElement(message_for(set, elements));
        batch.push(what, set.table.family.number(), 0, message);
    }
}

/// Splits into runs of one set, not too long for a message.
fn chunks<T>(items: impl IntoIterator<Item = (SetId, T)>) -> Vec<(SetId, Vec<T>)> {
    let mut chunks: Vec<(SetId, Vec<T>)> = Vec::new();
    for (set, item) in items {
        match chunks.last_mut() {
            Some((last, chunk)) if *last == set && chunk.len() < PER_MESSAGE => chunk.push(item),
            _ => chunks.push((set, vec![item])),
        }
    }
    chunks
}

/// Looks up keys in constant time each: the element, or `None` if it, its set or its table does not exist, or if the set is
/// another's, with keys of another length.
pub(super) fn look_up<'a>(
    socket: &Socket,
    keys: impl IntoIterator<Item = (SetId, &'a [u8])>,
) -> Result<Vec<Option<Found>>, NftError> {
    let question = |(set, key): (SetId, &[u8])| {
        let elements = vec![ListAttribute::Element(vec![key_of(key)])];
        set.table.question(NfTablesMessage::GetSetElement(message_for(set, elements)))
    };
    let questions: Vec<NetfilterMessage> = keys.into_iter().map(question).collect();
    let mut found = Vec::with_capacity(questions.len());
    for answer in socket.ask_raw("look an element up", questions)? {
        found.push(match answer {
            Ok(message) => read(&message).pop(),
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::INVAL)) => None,
            Err(error) => return Err(error),
        });
    }
    Ok(found)
}

/// Reads the whole set; a set that does not exist is empty. May contain an element twice (see [`Socket::dump`]).
pub(super) fn dump(socket: &Socket, set: SetId) -> Result<Vec<Found>, NftError> {
    let question = set.table.question(NfTablesMessage::GetSetElement(message_for(set, Vec::new())));
    let mut found = Vec::new();
    socket.dump(&format!("list {} {}", set.table, set.name), &question, |message| {
        found.extend(read(&message));
        Ok(())
    })?;
    Ok(found)
}

/// The keys of anybody's set or map, anonymous ones included.
pub(super) fn keys_of_any(socket: &Socket, family: u8, table: &str, set: &str) -> Result<Vec<Vec<u8>>, NftError> {
    let attributes = vec![SetElementList::Table(table.to_owned()), SetElementList::Set(set.to_owned())];
    let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
    let question = NetfilterMessage::new(NetfilterHeader::new(family.into(), 0, 0), message);
    let mut keys = Vec::new();
    socket.dump(&format!("list {table} {set}"), &question, |message| {
        keys.extend(read(&message).into_iter().map(|found| found.key));
        Ok(())
    })?;
    Ok(keys)
}

/// The elements in a message. Read by hand: see [`Raw::decode`].
pub(super) fn read(message: &Raw) -> Vec<Found> {
    // NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM
    nested(message.attributes(), 3).flat_map(|list| nested(list, 1)).filter_map(read_element).collect()
}

/// The values of all attributes of this kind.
pub(super) fn nested(attributes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    let mut rest = attributes;
    std::iter::from_fn(move || {
        loop {
            let [a, b, c, d, ..] = *rest else { return None };
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let found = u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if found == kind {
                return Some(value);
            }
        }
    })
}

fn read_element(attributes: &[u8]) -> Option<Found> {
    // NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_USERDATA, NFTA_DATA_VALUE, NFTA_DATA_VERDICT
    let first = |attributes, kind| nested(attributes, kind).next();
    let value = match first(attributes, 2) {
        None => Value::Nothing,
        Some(data) => match first(data, 2) {
            Some(verdict) => read_verdict(verdict),
            None => Value::Data(first(data, 1)?.to_vec()),
        },
    };
    let comment = first(attributes, 6).and_then(raw::read_comment).unwrap_or_default();
    Some(Found { key: first(first(attributes, 1)?, 1)?.to_vec(), value, comment })
}

/// The chain of a `goto`. No other verdict is ever ours; a value that equals none of ours stands for them.
fn read_verdict(verdict: &[u8]) -> Value {
    // NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN
    let first = |kind| nested(verdict, kind).next();
    match (first(1), first(2).and_then(|name| std::str::from_utf8(name).ok())) {
        (Some(code), Some(chain)) if *code == u32::from(Verdict::Goto).to_be_bytes() => {
            Value::Goto(chain.trim_end_matches('\0').to_owned())
        }
        _ => Value::Data(Vec::new()),
    }
}
