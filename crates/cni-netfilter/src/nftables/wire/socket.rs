//! A blocking netlink socket to netfilter: requests, dumps, and a batch of changes as one transaction.
//!
//! The kernel works in the sender's context (`nfnetlink_rcv`): when `send` returns, every answer is queued.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    GenAttribute, GenMessage, NfTablesMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
    sockopt,
};

use super::answer::{Answer, Body, Raw, answers};
use super::attribute::part;
use super::batch::{Batch, Change, begin, control};
use super::error::{ASK_GENERATION, NftError};
use super::table::header;

/// Big enough for any dump message: the kernel fills at most 32 KiB (`netlink_dump`).
const RECEIVE: usize = 64 * 1024;
/// How many requests are sent at once; their answers (under 1 KiB each) must fit the receive buffer of 208 KiB.
const PIPELINE: usize = 64;
/// How often a dump is repeated because the rule set changes under it: at once a few times, then with pauses, about 1 s in all.
const DUMP_ATTEMPTS: u32 = 24;
/// The attempts without a pause before them.
const AT_ONCE: u32 = 4;
/// The longest pause, in milliseconds.
const PAUSE_MAX: u64 = 60;

/// What a dump has listed.
struct Listed {
    objects: Vec<Raw>,
    /// False if the rule set has changed meanwhile: the list may lack objects or have them twice (`NLM_F_DUMP_INTR`).
    is_complete: bool,
}

/// The socket. Closing it waits until the kernel has freed what any program has deleted (`nft_rcv_nl_event`: a grace period of RCU,
/// 5–15 ms), and keeps all other transactions waiting meanwhile. So that is left to the kernel where it can be.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: Cell<u32>,
    circle: Option<Circle>,
}

/// Has the kernel close a socket after this process, not within its `close` or `exit`: a copy travels in a message to a Unix socket
/// which travels in the same message, and which nobody can receive once both ends are closed. The kernel's collector of such circles
/// (net/unix/garbage.c) then closes both, since Linux 6.10 in a worker of its own.
///
/// The collector begins when a Unix socket is closed for good, which the receiver isn't: the sender comes last.
#[derive(Debug)]
struct Circle {
    _receiver: OwnedFd,
    _sender: OwnedFd,
}

impl Circle {
    fn around(socket: &netlink_sys::Socket) -> rustix::io::Result<Self> {
        let (sender, receiver) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let both = [receiver.as_fd(), socket.as_fd()];
        rights.push(SendAncillaryMessage::ScmRights(&both));
        sendmsg(&sender, &[IoSlice::new(&[0])], &mut rights, SendFlags::DONTWAIT)?;
        Ok(Self { _receiver: receiver, _sender: sender })
    }
}

impl Drop for Socket {
    /// The fields are dropped afterwards, in their order. Without a circle the close waits.
    fn drop(&mut self) {
        self.circle = Circle::around(&self.inner).ok();
    }
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
        Ok(Self { inner: open().map_err(NftError::Open)?, sequence: Cell::new(0), circle: None })
    }

    /// Makes all changes of `batch` in one transaction, or none. With `generation`, only if the rule set is still the
    /// one of [`Socket::generation`]; else the error is [`crate::nftables::wire::batch::GENERATION_CHANGED`].
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
            // The kernel reports errors unasked; one ack at the end says that there were none.
            let ack = if index == last { NLM_F_ACK } else { 0 };
            let message = NetfilterMessage::new(header(change.table().family), change.message.clone());
            self.append(&mut bytes, change.flags | ack, message);
        }
        if end {
            self.append(&mut bytes, 0, control(ControlMessage::BatchEnd));
        }
        let what = |sequence: u32| match sequence.wrapping_sub(first) {
            0 => "commit the transaction".to_owned(),
            n => batch.changes.get(n as usize - 1).map_or_else(|| "end the batch".to_owned(), |c| c.what.clone()),
        };
        self.send(&bytes, &what(first.wrapping_add(1)))?;
        let (mut outcome, mut at) = (None, 0);
        self.receive("commit a transaction", |answer| {
            match answer.body {
                Body::Error { errno, detail } if !matches!(outcome, Some(Err(_))) => {
                    at = answer.sequence.wrapping_sub(first) as usize;
                    outcome = Some(Err(NftError::Refused { what: what(answer.sequence), errno, detail }));
                }
                Body::Ack if outcome.is_none() => outcome = Some(Ok(())),
                _ => {}
            }
            Ok(())
        })?;
        match outcome {
            Some(Err(error)) => Err(self.explained(error, at.checked_sub(1).and_then(|n| batch.changes.get(n)))),
            Some(Ok(())) => Ok(()),
            None => Err(NftError::Answer {
                what: what(first.wrapping_add(1)),
                why: "it neither acknowledged nor refused".into(),
            }),
        }
    }

    /// The refusal of a change, with its cause where the table's flags tell it.
    fn explained(&self, error: NftError, refused: Option<&Change>) -> NftError {
        let (Some(Errno::PERM), Some(change)) = (error.errno(), refused) else { return error };
        let table = change.table();
        let attributes = vec![TableAttribute::Name(table.name.to_owned())];
        let request = table.request(NfTablesMessage::GetTable(TableMessage { attributes }));
        let Ok(Some(NfTablesMessage::NewTable(found))) = self.find("look for a table", request) else { return error };
        if !part!(found.attributes, TableAttribute::Flags).is_some_and(|flags| flags.contains(TableFlags::Owner)) {
            return error;
        }
        let port = part!(found.attributes, TableAttribute::Owner).copied();
        NftError::Owned { what: change.what.clone(), table: table.to_string(), port }
    }

    /// The generation of the rule set of this namespace: it changes with every transaction of any program.
    pub(crate) fn generation(&self) -> Result<u32, NftError> {
        let message = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let request = NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0), message);
        let id = match self.find(ASK_GENERATION, request)? {
            Some(NfTablesMessage::NewGen(found)) => part!(found.attributes, GenAttribute::Id).copied(),
            _ => None,
        };
        id.ok_or_else(|| NftError::Answer { what: "the generation".into(), why: "no number in it".into() })
    }

    /// Asks each of `requests` for one object. The answers are in the same order: the object, or the kernel's error.
    pub(crate) fn ask(
        &self,
        what: &str,
        requests: Vec<NetfilterMessage>,
    ) -> Result<Vec<Result<NetfilterMessageInner, NftError>>, NftError> {
        Ok(self.ask_raw(what, requests)?.into_iter().map(|answer| answer?.decode(what)).collect())
    }

    /// Asks for one object: `None` if the kernel says that there is none (`ENOENT`).
    pub(crate) fn find(&self, what: &str, request: NetfilterMessage) -> Result<Option<NfTablesMessage>, NftError> {
        match self.ask(what, vec![request])?.pop() {
            Some(Ok(NetfilterMessageInner::NfTables(found))) => Ok(Some(found)),
            Some(Err(error)) if error.errno() != Some(Errno::NOENT) => Err(error),
            _ => Ok(None),
        }
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

    /// Sends `requests` with `flags`, [`PIPELINE`] at a time. What the kernel says to each, in the same order.
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
            // Without the capability the kernel answers the first of them for all (`nfnetlink_rcv`).
            if let Some(Some(Err(NftError::Refused { errno: Errno::PERM, detail, .. }))) = results.get(start) {
                let detail = detail.clone();
                let refusal =
                    || NftError::Refused { what: what.to_owned(), errno: Errno::PERM, detail: detail.clone() };
                results.iter_mut().skip(start).for_each(|slot| {
                    slot.get_or_insert_with(|| Err(refusal()));
                });
            }
        }
        Ok(results)
    }

    /// Reads all objects that `request` selects; `visit` gets each. What does not exist is an empty list.
    ///
    /// If the rule set changes meanwhile, the dump is repeated, so that `visit` may see an object more than once, or one
    /// that has gone; but it will hardly miss one.
    pub(crate) fn dump(
        &self,
        what: &str,
        request: &NetfilterMessage,
        mut visit: impl FnMut(Raw) -> Result<(), NftError>,
    ) -> Result<(), NftError> {
        for attempt in 0..DUMP_ATTEMPTS {
            pause(attempt);
            let listed = self.dump_once(what, request)?;
            listed.objects.into_iter().try_for_each(&mut visit)?;
            if listed.is_complete {
                break;
            }
        }
        Ok(())
    }

    /// Like [`Socket::dump`], but asks only once: if the rule set changes meanwhile, an object may be missing or there twice.
    pub(crate) fn glance(
        &self,
        what: &str,
        request: &NetfilterMessage,
        visit: impl FnMut(Raw) -> Result<(), NftError>,
    ) -> Result<(), NftError> {
        self.dump_once(what, request)?.objects.into_iter().try_for_each(visit)
    }

    /// Like [`Socket::dump`], but what is returned comes from one state of the rule set: `read` starts afresh each time.
    pub(crate) fn dump_state<T: Default>(
        &self,
        what: &str,
        request: &NetfilterMessage,
        mut read: impl FnMut(&mut T, Raw) -> Result<(), NftError>,
    ) -> Result<T, NftError> {
        for attempt in 0..DUMP_ATTEMPTS {
            pause(attempt);
            let listed = self.dump_once(what, request)?;
            if listed.is_complete {
                let mut state = T::default();
                listed.objects.into_iter().try_for_each(|object| read(&mut state, object))?;
                return Ok(state);
            }
        }
        Err(NftError::Contended { what: what.to_owned(), attempts: DUMP_ATTEMPTS })
    }

    /// Nothing is decoded before all has been received: the longer that takes, the likelier the rule set changes meanwhile.
    fn dump_once(&self, what: &str, request: &NetfilterMessage) -> Result<Listed, NftError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, NLM_F_DUMP, request.clone());
        self.send(&bytes, what)?;
        let (mut listed, mut failed) = (Listed { objects: Vec::new(), is_complete: true }, None);
        self.receive(what, |answer| {
            listed.is_complete &= !answer.interrupted;
            match answer.body {
                Body::Message(message) => listed.objects.push(message),
                Body::Error { errno: Errno::INTR, .. } => listed.is_complete = false,
                Body::Error { errno, detail } if errno != Errno::NOENT => {
                    failed = Some(NftError::Refused { what: what.to_owned(), errno, detail });
                }
                _ => {}
            }
            Ok(())
        })?;
        failed.map_or(Ok(listed), Err)
    }

    /// For questions that any socket of this namespace can ask.
    pub(crate) fn descriptor(&self) -> &netlink_sys::Socket {
        &self.inner
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

/// Lets other programs finish what they are changing: 1 ms, 2 ms and so on, with a different part of it for each process, so that two
/// don't meet again.
fn pause(attempt: u32) {
    let Some(doubled) = attempt.checked_sub(AT_ONCE) else { return };
    let longest = (1u64 << doubled.min(16)).min(PAUSE_MAX) * 1000;
    let part = u64::from(std::process::id() % 8);
    thread::sleep(Duration::from_micros(longest - longest * part / 16));
}
