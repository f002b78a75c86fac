//! What the kernel answers: datagrams split into messages, and errors with their text.

use netlink_packet_core::{
    DecodeError, DefaultNla, ErrorMessage, NLM_F_DUMP_INTR, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla, NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use rustix::io::Errno;

use super::error::NftError;

/// `NLMSGERR_ATTR_MSG`: the kernel's error text.
const ERROR_TEXT: u16 = 1;
/// `NLM_F_CAPPED`, `NLM_F_ACK_TLVS`: the shape of an error message (linux/netlink.h).
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;

/// An answer of the kernel.
pub(crate) struct Answer {
    pub(crate) sequence: u32,
    /// The rule set has changed during a dump.
    pub(crate) interrupted: bool,
    pub(crate) body: Body,
}

/// A message of netfilter, not decoded: its type with the subsystem, and what follows its netlink header.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    kind: u16,
    bytes: Vec<u8>,
}

impl Raw {
    /// The attributes, behind `struct nfgenmsg`.
    pub(crate) fn attributes(&self) -> &[u8] {
        self.bytes.get(4..).unwrap_or_default()
    }

    /// The message with all its attributes decoded. Not for lists of elements: see [`super::attribute`].
    pub(crate) fn decode(&self, what: &str) -> Result<NetfilterMessageInner, NftError> {
        NetfilterMessage::parse_with_param(&self.bytes, self.kind)
            .map(|message| message.inner)
            .map_err(|error| NftError::Answer { what: what.to_owned(), why: error.to_string() })
    }
}

/// What an answer says.
pub(crate) enum Body {
    Message(Raw),
    Ack,
    Error { errno: Errno, detail: Option<String> },
    Done,
}

/// Leaves the payload of a message as it is.
#[derive(Debug)]
struct Undecoded(Raw);

impl NetlinkDeserializable for Undecoded {
    type Error = DecodeError;
    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(Raw { kind: header.message_type, bytes: payload.to_vec() }))
    }
}

/// Splits a datagram into messages and decodes them.
pub(crate) fn answers(datagram: &[u8]) -> impl Iterator<Item = Result<Answer, String>> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = rest.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b) as usize)?;
        if length < 16 || length > rest.len() {
            rest = &[];
            return Some(Err(format!("a message of {length} bytes")));
        }
        let message = &rest[..length];
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(answer(message))
    })
}

fn answer(bytes: &[u8]) -> Result<Answer, String> {
    let message = NetlinkMessage::<Undecoded>::deserialize(bytes).map_err(|error| error.to_string())?;
    let flags = message.header.flags;
    let body = match message.payload {
        NetlinkPayload::InnerMessage(inner) => Body::Message(inner.0),
        NetlinkPayload::Error(error) => match error.code {
            None => Body::Ack,
            // The kernel's own are -1 to -4095 (`MAX_ERRNO`), and `Errno` takes no others.
            Some(code) if (-4095..0).contains(&code.get()) => {
                Body::Error { errno: Errno::from_raw_os_error(-code.get()), detail: error_text(&error, flags) }
            }
            Some(code) => return Err(format!("an error with the code {code}")),
        },
        NetlinkPayload::Done(_) | NetlinkPayload::Noop | NetlinkPayload::Overrun(_) => Body::Done,
        _ => return Err("an unknown kind of message".to_owned()),
    };
    Ok(Answer { sequence: message.header.sequence_number, interrupted: flags & NLM_F_DUMP_INTR != 0, body })
}

/// The text of an extended ack: attributes that follow the header of the request (the whole request if not capped).
fn error_text(error: &ErrorMessage, flags: u16) -> Option<String> {
    if flags & ACK_TLVS == 0 {
        return None;
    }
    let request = error.header.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b) as usize)?;
    let skip = if flags & CAPPED == 0 { request.next_multiple_of(4) } else { 16 };
    NlasIterator::new(error.header.get(skip..)?)
        .flatten()
        .filter_map(|nla| DefaultNla::parse(&nla).ok())
        .find(|nla| nla.kind() == ERROR_TEXT)
        .map(|nla| {
            let mut text = vec![0; nla.value_len()];
            nla.emit_value(&mut text);
            String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
        })
}
