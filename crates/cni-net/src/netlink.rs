//! The route socket: one request and its answers at a time, in the calling thread.
//!
//! The kernel handles a request while it is sent (`netlink_rcv_skb` in net/netlink/af_netlink.c), and goes on with a list while
//! its last part is received (`netlink_recvmsg`): so what is to be received is queued already, and nothing here waits.

use std::cell::{Cell, RefCell};
use std::io;

use cni_plugin::Family;
use netlink_packet_core::{
    DoneBuffer, Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO,
    NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NlasIterator, Parseable,
    parse_string,
};
use netlink_packet_route::AddressFamily;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::RecvFlags;

use crate::errno::Errno;
use crate::error::{Failure, KernelError, NetError};
use crate::netns::NetNs;

/// How often a dump is read again before it is given up.
const DUMP_ATTEMPTS: usize = 8;
/// After how many lost datagrams an exchange is given up.
const LOSSES: usize = 8;
/// The kernel's sentence in an error's attributes.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// An error repeats the request's header only, for the socket has `NETLINK_CAP_ACK` set.
const REPEATED_HEADER: usize = 16;
/// Longer than any answer: a part of a list has 32 KiB at most (`netlink_dump`), and the largest answer to a question is a
/// link's.
const RECEIVE: usize = 64 * 1024;
/// Don't wait, and return the length of an answer also if it doesn't fit.
const RECEIVE_FLAGS: i32 = RecvFlags::DONTWAIT.union(RecvFlags::TRUNC).bits() as i32;

/// What a request is: `RTM_*` of `include/uapi/linux/rtnetlink.h`. The four of an object follow each other: new, delete, get, set.
pub(crate) mod rtm {
    pub(crate) const NEWLINK: u16 = 16;
    pub(crate) const DELLINK: u16 = 17;
    pub(crate) const GETLINK: u16 = 18;
    pub(crate) const SETLINK: u16 = 19;
    pub(crate) const NEWADDR: u16 = 20;
    pub(crate) const DELADDR: u16 = 21;
    pub(crate) const GETADDR: u16 = 22;
    pub(crate) const NEWROUTE: u16 = 24;
    pub(crate) const DELROUTE: u16 = 25;
    pub(crate) const GETROUTE: u16 = 26;
    pub(crate) const NEWNEIGH: u16 = 28;
    pub(crate) const DELNEIGH: u16 = 29;
    pub(crate) const GETNEIGH: u16 = 30;
    pub(crate) const NEWRULE: u16 = 32;
    pub(crate) const DELRULE: u16 = 33;
    pub(crate) const GETRULE: u16 = 34;
    pub(crate) const NEWQDISC: u16 = 36;
    pub(crate) const DELQDISC: u16 = 37;
    pub(crate) const GETQDISC: u16 = 38;
    pub(crate) const NEWTFILTER: u16 = 44;
    pub(crate) const GETTFILTER: u16 = 46;
    pub(crate) const NEWNSID: u16 = 88;
    pub(crate) const GETNSID: u16 = 90;
    pub(crate) const NEWLINKPROP: u16 = 108;
    pub(crate) const DELLINKPROP: u16 = 109;
}

/// What the kernel describes in an answer. Each kind is decoded where it is asked for, not by `RouteNetlinkMessage`, so that an
/// executable has the code of those kinds only that it uses.
pub(crate) trait Object: Parseable<[u8]> {
    /// The types of messages that describe such an object.
    const DESCRIBED_BY: &'static [u16];
}

/// A route netlink socket, bound to the namespace it was opened in for ever.
///
/// Every verb returns when the kernel has handled the request. The socket closes when this is dropped.
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
    /// What was received last.
    received: RefCell<Vec<u8>>,
}

/// How an exchange ended that the kernel didn't refuse.
struct End {
    /// The list is whole (`NLMSG_DONE`).
    is_done: bool,
    /// The listed table changed between two parts of the list (`NLM_F_DUMP_INTR`), or a part was lost.
    is_interrupted: bool,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// [`NetError::Socket`].
    pub fn open() -> Result<Netlink, NetError> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(NETLINK_ROUTE)?;
            // Strict: the kernel filters dumps by what the request says, and refuses what it does not understand.
            socket.set_netlink_get_strict_chk(true)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetError::Socket { source })?;
        Ok(Netlink { socket, sequence: Cell::new(0), received: RefCell::new(Vec::with_capacity(RECEIVE)) })
    }

    /// Opens a socket in `ns`. The thread is back in its own namespace afterwards; the socket stays there.
    ///
    /// # Errors
    /// [`NetError::Socket`] and [`NetError::Namespace`].
    pub fn open_in(ns: &NetNs) -> Result<Netlink, NetError> {
        ns.run(Netlink::open)?
    }

    /// Sends a request of this type (`rtm`) and returns what the kernel answers before its acknowledgement: the object asked
    /// for, or the echo of the object made (`NLM_F_ECHO`). An answer that cannot be decoded is left out.
    pub(crate) fn ask<T: Object>(&self, rtm: u16, request: &dyn Emitable, flags: u16) -> Result<Vec<T>, Failure> {
        Ok(self.objects(rtm, request, flags | NLM_F_ACK)?.0)
    }

    /// [`Netlink::ask`] where there is no answer but the acknowledgement.
    pub(crate) fn tell(&self, rtm: u16, request: &dyn Emitable, flags: u16) -> Result<(), Failure> {
        self.exchange(rtm, request, flags | NLM_F_ACK, &mut |_, _| {}).map(drop)
    }

    /// Reads a whole table, again if it changed meanwhile. An entry that cannot be decoded is left out.
    pub(crate) fn dump<T: Object>(&self, rtm: u16, request: &dyn Emitable) -> Result<Vec<T>, Failure> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.objects(rtm, request, NLM_F_DUMP)? {
                (_, End { is_done: false, .. }) => return Err(Failure::NoAnswer),
                (_, End { is_interrupted: true, .. }) => {}
                (objects, _) => return Ok(objects),
            }
        }
        Err(Failure::Interrupted)
    }

    fn objects<T: Object>(&self, rtm: u16, request: &dyn Emitable, flags: u16) -> Result<(Vec<T>, End), Failure> {
        let mut objects = Vec::new();
        let end = self.exchange(rtm, request, flags, &mut |kind, body| {
            if T::DESCRIBED_BY.contains(&kind) {
                objects.extend(T::parse(body).ok());
            }
        })?;
        Ok((objects, end))
    }

    /// Sends a request and receives until its end; `visit` gets the type and the body of each message before that.
    fn exchange(
        &self,
        rtm: u16,
        request: &dyn Emitable,
        flags: u16,
        visit: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<End, Failure> {
        let sequence = self.send(rtm, request, NLM_F_REQUEST | flags)?;
        let mut received = self.received.try_borrow_mut().map_err(|_| Failure::NoAnswer)?;
        let (mut is_interrupted, mut losses) = (false, 0);
        while losses < LOSSES {
            if !self.receive(&mut received)? {
                (is_interrupted, losses) = (true, losses + 1);
            }
            let mut rest = received.as_slice();
            while !rest.is_empty() {
                // It checks the length.
                let message = NetlinkBuffer::new_checked(rest).map_err(|_| Failure::NoAnswer)?;
                let length = message.length() as usize;
                rest = rest.get(length.next_multiple_of(usize::from(NLMSG_ALIGNTO))..).unwrap_or_default();
                // What a request left behind that was given up.
                if message.sequence_number() != sequence {
                    continue;
                }
                is_interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(Failure::NoAnswer),
                    NLMSG_ERROR => {
                        acknowledged(message.payload())?;
                        return Ok(End { is_done: false, is_interrupted });
                    }
                    NLMSG_DONE => {
                        completed(message.payload())?;
                        return Ok(End { is_done: true, is_interrupted });
                    }
                    kind => visit(kind, message.payload()),
                }
            }
        }
        Err(Failure::NoAnswer)
    }

    /// Sends a request and returns its number, which its answers repeat.
    fn send(&self, rtm: u16, request: &dyn Emitable, flags: u16) -> Result<u32, Failure> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut header = NetlinkHeader::default();
        let length = header.buffer_len() + request.buffer_len();
        header.length = u32::try_from(length).map_err(|_| Failure::NoAnswer)?;
        header.message_type = rtm;
        header.flags = flags;
        header.sequence_number = sequence;
        let mut bytes = vec![0; length];
        let (head, body) = bytes.split_at_mut(header.buffer_len());
        header.emit(head);
        request.emit(body);
        match self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0) {
            Ok(sent) if sent == length => Ok(sequence),
            _ => Err(Failure::NoAnswer),
        }
    }

    /// Receives one datagram of the kernel. False if the kernel had no memory for one (`ENOBUFS`, which is said once); the end of
    /// the exchange may have come through all the same.
    fn receive(&self, buffer: &mut Vec<u8>) -> Result<bool, Failure> {
        loop {
            buffer.clear();
            match self.socket.recv_from(buffer, RECEIVE_FLAGS) {
                // Another process may send to any netlink socket; the kernel's number is 0.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) if length == buffer.len() => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS) => return Ok(false),
                // Cut off, or there is none.
                _ => return Err(Failure::NoAnswer),
            }
        }
    }
}

/// The family's `AF_` constant.
pub(crate) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

/// The content of `NLMSG_ERROR`: the kernel has done what it was asked, or refuses.
fn acknowledged(body: &[u8]) -> Result<(), Failure> {
    let answer = ErrorBuffer::new_checked(body).map_err(|_| Failure::NoAnswer)?;
    match answer.code() {
        None => Ok(()),
        Some(code) => Err(refusal(code.get(), answer.payload().get(REPEATED_HEADER..).unwrap_or_default())),
    }
}

/// The content of `NLMSG_DONE`: a list has ended, or failed in the middle. It may be empty.
fn completed(body: &[u8]) -> Result<(), Failure> {
    match DoneBuffer::new_checked(body) {
        Ok(end) if end.code() != 0 => Err(refusal(end.code(), end.extended_ack())),
        _ => Ok(()),
    }
}

fn refusal(code: i32, attributes: &[u8]) -> Failure {
    let text = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|attribute| parse_string(attribute.value()).ok());
    Failure::Kernel(KernelError { errno: code.saturating_abs(), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_sentence_is_found_among_the_attributes() {
        // NLMSGERR_ATTR_OFFS (2) = 36, then NLMSGERR_ATTR_MSG (1) = "No."
        let attributes = [8, 0, 2, 0, 36, 0, 0, 0, 8, 0, 1, 0, b'N', b'o', b'.', 0];
        let Failure::Kernel(reason) = refusal(-22, &attributes) else { panic!() };
        assert_eq!(reason, KernelError { errno: 22, text: Some("No.".to_owned()) });
        let Failure::Kernel(reason) = refusal(-22, &[1, 2, 3]) else { panic!() };
        assert_eq!(reason, KernelError { errno: 22, text: None });
    }
}
