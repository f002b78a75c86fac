//! A blocking netlink socket to netfilter: requests, dumps, and a batch of changes as one transaction.
//!
//! The kernel works in the sender's context (`nfnetlink_rcv`): when `send` returns, the transaction is committed or
//! aborted and every answer is queued. So nothing here ever blocks in `recv`.

use std::cell::Cell;
use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla, NlasIterator, Parseable,
    ParseableParametrized,
};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use netlink_sys::{SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::error::NftError;

/// `NFNL_BATCH_GENID`: the batch holds only for this generation of the rule set.
const BATCH_GENERATION: u16 = 1;
/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u8 = 16;
/// `NLMSGERR_ATTR_MSG`: the kernel's error text.
const ERROR_TEXT: u16 = 1;
/// `NLM_F_CAPPED`, `NLM_F_ACK_TLVS`: the shape of an error message (linux/netlink.h).
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
/// Big enough for any dump message: the kernel fills at most 32 KiB (`netlink_dump`).
const RECEIVE: usize = 64 * 1024;
/// How many requests are sent at once; their answers (under 1 KiB each) must fit the receive buffer of 208 KiB.
const PIPELINE: usize = 64;
/// How many inconsistent dumps are merged before the result is taken.
const DUMP_ATTEMPTS: u32 = 8;
/// `ERESTART`, which the kernel answers if the generation has changed. No name for it in user space.
pub(crate) const GENERATION_CHANGED: Errno = Errno::from_raw_os_error(85);

/// One change of a [`Batch`].
#[derive(Debug, Clone)]
struct Change {
    what: String,
    flags: u16,
    family: NetfilterProtoFamily,
    message: NfTablesMessage,
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// Adds a change. `what` completes "the kernel refused to …"; `flags` are `NLM_F_CREATE` and the like.
    pub(crate) fn push(
        &mut self,
        what: impl Into<String>,
        family: NetfilterProtoFamily,
        flags: u16,
        message: NfTablesMessage,
    ) {
        self.changes.push(Change { what: what.into(), flags, family, message });
    }

    /// True if there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// An answer of the kernel.
struct Answer {
    sequence: u32,
    interrupted: bool,
    body: Body,
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

    /// The message with all its attributes decoded. Not for lists of elements: there the decoder formats the whole list
    /// once for each element, in case that it has to complain.
    pub(crate) fn decode(&self, what: &str) -> Result<NetfilterMessageInner, NftError> {
        NetfilterMessage::parse_with_param(&self.bytes, self.kind)
            .map(|message| message.inner)
            .map_err(|error| NftError::Answer { what: what.to_owned(), why: error.to_string() })
    }
}

enum Body {
    Message(Raw),
    Ack,
    Error { errno: Errno, detail: Option<String> },
    Done,
}

/// The socket. Closing it after a delete waits for the kernel (RCU, 5–15 ms), so its owner decides when.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: Cell<u32>,
}

impl Socket {
    /// Opens it in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, NftError> {
        let open = || -> io::Result<netlink_sys::Socket> {
            let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Errors with the kernel's text, and without a copy of the (possibly large) request.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        Ok(Self { inner: open().map_err(NftError::Open)?, sequence: Cell::new(0) })
    }

    /// Makes all changes of `batch` in one transaction, or none. With `generation`, only if the rule set is still the
    /// one of [`Socket::generation`]; else the error is [`GENERATION_CHANGED`].
    pub(crate) fn commit(&self, batch: &Batch, generation: Option<u32>) -> Result<(), NftError> {
        self.run(batch, generation, true)
    }

    /// Lets the kernel check `batch` and throw it away: a batch without an end is never committed.
    pub(crate) fn rehearse(&self, batch: &Batch) -> Result<(), NftError> {
        self.run(batch, None, false)
    }

    fn run(&self, batch: &Batch, generation: Option<u32>, end: bool) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let first = self.append(&mut bytes, 0, begin(generation));
        let last = batch.changes.len() - 1;
        for (index, change) in batch.changes.iter().enumerate() {
            // Errors come without being asked for; one ack at the end tells that there were none.
            let ack = if index == last { NLM_F_ACK } else { 0 };
            let header = NetfilterHeader::new(change.family, 0, 0);
            self.append(&mut bytes, change.flags | ack, NetfilterMessage::new(header, change.message.clone()));
        }
        if end {
            self.append(&mut bytes, 0, control(ControlMessage::BatchEnd));
        }
        let what = |sequence: u32| match sequence.wrapping_sub(first) {
            0 => "commit the transaction".to_owned(),
            n => batch.changes.get(n as usize - 1).map_or_else(|| "end the batch".to_owned(), |c| c.what.clone()),
        };
        self.send(&bytes, &what(first.wrapping_add(1)))?;
        let mut outcome = None;
        self.receive("commit a transaction", |answer| {
            match answer.body {
                Body::Error { errno, detail } if !matches!(outcome, Some(Err(_))) => {
                    outcome = Some(Err(NftError::Refused { what: what(answer.sequence), errno, detail }));
                }
                Body::Ack if outcome.is_none() => outcome = Some(Ok(())),
                _ => {}
            }
            Ok(())
        })?;
        outcome.unwrap_or_else(|| {
            Err(NftError::Answer {
                what: what(first.wrapping_add(1)),
                why: "it neither acknowledged nor refused".into(),
            })
        })
    }

    /// The generation of the rule set of this namespace: it changes with every transaction of anybody.
    pub(crate) fn generation(&self) -> Result<u32, NftError> {
        use netlink_packet_netfilter::nftables::{GenAttribute, GenMessage};
        let ask = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
        let mut answers = self.ask("read the generation", vec![NetfilterMessage::new(header, ask)])?;
        match answers.pop() {
            Some(Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(found)))) => {
                found.attributes.iter().find_map(|a| if let GenAttribute::Id(id) = a { Some(*id) } else { None })
            }
            Some(Err(error)) => return Err(error),
            _ => None,
        }
        .ok_or_else(|| NftError::Answer { what: "the generation".into(), why: "no number in it".into() })
    }

    /// Asks each of `requests` for one object. The answers are in the same order: the object, or the kernel's error.
    pub(crate) fn ask(
        &self,
        what: &str,
        requests: Vec<NetfilterMessage>,
    ) -> Result<Vec<Result<NetfilterMessageInner, NftError>>, NftError> {
        Ok(self.ask_raw(what, requests)?.into_iter().map(|answer| answer?.decode(what)).collect())
    }

    /// [`Socket::ask`] without decoding the answers.
    pub(crate) fn ask_raw(
        &self,
        what: &str,
        requests: Vec<NetfilterMessage>,
    ) -> Result<Vec<Result<Raw, NftError>>, NftError> {
        self.each(what, 0, requests)?
            .into_iter()
            .map(|answer| {
                answer.ok_or_else(|| NftError::Answer { what: what.to_owned(), why: "there was none".to_owned() })
            })
            .collect()
    }

    /// Sends each of `requests` outside of a transaction and returns the kernel's refusal of each, if it refused.
    pub(crate) fn tell(&self, what: &str, requests: Vec<NetfilterMessage>) -> Result<Vec<Option<NftError>>, NftError> {
        Ok(self.each(what, NLM_F_ACK, requests)?.into_iter().map(|answer| answer.and_then(Result::err)).collect())
    }

    #[expect(clippy::type_complexity, reason = "one inner result per request, one outer for the socket")]
    fn each(
        &self,
        what: &str,
        flags: u16,
        requests: Vec<NetfilterMessage>,
    ) -> Result<Vec<Option<Result<Raw, NftError>>>, NftError> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let (start, mut bytes) = (results.len(), Vec::new());
            let first = self.sequence.get().wrapping_add(1);
            for request in requests.by_ref().take(PIPELINE) {
                self.append(&mut bytes, flags, request);
                results.push(None);
            }
            self.send(&bytes, what)?;
            self.receive(what, |answer| {
                let index = start + answer.sequence.wrapping_sub(first) as usize;
                let Some(slot) = results.get_mut(index) else { return Ok(()) };
                match answer.body {
                    Body::Message(message) => *slot = Some(Ok(message)),
                    Body::Error { errno, detail } => {
                        *slot = Some(Err(NftError::Refused { what: what.to_owned(), errno, detail }));
                    }
                    Body::Ack | Body::Done => {}
                }
                Ok(())
            })?;
        }
        Ok(results)
    }

    /// Reads all objects that `request` selects; `visit` gets each. What does not exist is an empty list.
    ///
    /// If the rule set changes meanwhile, the kernel's list may lack or repeat objects (`NLM_F_DUMP_INTR`): the dump is
    /// then repeated, so that `visit` may see an object more than once, or one that has gone.
    pub(crate) fn dump(
        &self,
        what: &str,
        request: &NetfilterMessage,
        mut visit: impl FnMut(Raw) -> Result<(), NftError>,
    ) -> Result<(), NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut bytes = Vec::new();
            self.append(&mut bytes, NLM_F_DUMP, request.clone());
            self.send(&bytes, what)?;
            let (mut interrupted, mut failed) = (false, None);
            self.receive(what, |answer| {
                interrupted |= answer.interrupted;
                match answer.body {
                    Body::Message(message) => visit(message)?,
                    Body::Error { errno, detail } if errno != Errno::NOENT => {
                        failed = Some(NftError::Refused { what: what.to_owned(), errno, detail });
                    }
                    _ => {}
                }
                Ok(())
            })?;
            match failed {
                Some(error) if error.errno() != Some(Errno::INTR) => return Err(error),
                None if !interrupted => break,
                _ => {}
            }
        }
        Ok(())
    }

    /// True if the socket's namespace has an interface of this name (padded with zeros), or if that cannot be told.
    pub(crate) fn interface_exists(&self, name: &[u8]) -> bool {
        let Ok(name) = std::str::from_utf8(name) else { return true };
        // SIOCGIFINDEX; any socket will do, and it asks in the socket's namespace.
        !matches!(rustix::net::netdevice::name_to_index(&self.inner, name.trim_end_matches('\0')), Err(Errno::NODEV))
    }

    /// Appends a message to `bytes` and returns its sequence number.
    fn append(&self, bytes: &mut Vec<u8>, flags: u16, message: NetfilterMessage) -> u32 {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
        sequence
    }

    fn send(&self, bytes: &[u8], what: &str) -> Result<(), NftError> {
        self.make_room(bytes.len())?;
        self.inner.send(bytes, 0).map_err(|source| NftError::Io { what: what.to_owned(), source })?;
        Ok(())
    }

    /// A netlink message must fit the send buffer as a whole (`netlink_sendmsg`: `EMSGSIZE`). `SO_SNDBUFFORCE` may
    /// exceed net.core.wmem_max, with `CAP_NET_ADMIN` in the initial user namespace; else the limit is that.
    fn make_room(&self, bytes: usize) -> Result<(), NftError> {
        let size = || sockopt::socket_send_buffer_size(&self.inner).unwrap_or(0);
        // The kernel counts its bookkeeping too.
        let wanted = bytes + 1024;
        if size() >= wanted {
            return Ok(());
        }
        // It doubles what it is given, and both calls are best effort: the size that results is what counts.
        let _ = sockopt::set_socket_send_buffer_size_force(&self.inner, wanted)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&self.inner, wanted));
        if size() >= wanted { Ok(()) } else { Err(NftError::TooLarge { bytes, limit: size() }) }
    }

    /// Reads everything that is queued.
    fn receive(&self, what: &str, mut visit: impl FnMut(Answer) -> Result<(), NftError>) -> Result<(), NftError> {
        const DONT_WAIT: i32 = rustix::net::RecvFlags::DONTWAIT.bits() as i32;
        let mut buffer = Vec::with_capacity(RECEIVE);
        // An error of `visit` is kept until the queue is empty, or the rest would answer the next question.
        let mut failed = None;
        loop {
            buffer.clear();
            match self.inner.recv(&mut buffer, DONT_WAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(NftError::Io { what: what.to_owned(), source }),
            }
            for answer in answers(&buffer) {
                let outcome = answer
                    .map_err(|why| NftError::Answer { what: what.to_owned(), why })
                    .and_then(|answer| if failed.is_none() { visit(answer) } else { Ok(()) });
                failed = failed.or(outcome.err());
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn control(message: ControlMessage) -> NetfilterMessage {
    // The batch says in its header which subsystem it is for.
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, u8::from(NetfilterSubsystem::NfTables).into());
    NetfilterMessage::new(header, message)
}

fn begin(generation: Option<u32>) -> NetfilterMessage {
    control(generation.map_or(ControlMessage::BatchBegin, |generation| ControlMessage::Other {
        message_type: BATCH_BEGIN,
        attributes: vec![DefaultNla::new(BATCH_GENERATION, generation.to_be_bytes().to_vec())],
    }))
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
fn answers(datagram: &[u8]) -> impl Iterator<Item = Result<Answer, String>> + '_ {
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
            Some(code) => Body::Error {
                errno: Errno::from_raw_os_error(code.get().wrapping_neg()),
                detail: error_text(&error, flags),
            },
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
