//! The route socket: one request and its answers at a time, behind a blocking call.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::Poll;

use futures_util::{FutureExt, StreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket;
use rtnetlink::proto::Connection;
use tokio::runtime::{Builder, Runtime};

use crate::error::{Failure, KernelError};
use crate::{NetError, NetNs};

/// Header flag of each message of a dump during which the dumped table changed (`include/uapi/linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often a dump is read again before it is given up.
const DUMP_ATTEMPTS: usize = 8;
/// The kernel's sentence in an error's attributes.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// An error repeats the request's header only, for the socket has `NETLINK_CAP_ACK` set.
const REPEATED_HEADER: usize = 16;

/// The process's one runtime. It starts no thread; it only waits where a verb blocks.
static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| Builder::new_current_thread().enable_io().build());

/// A route netlink socket, bound to the namespace it was opened in for ever.
///
/// Every verb blocks until the kernel has answered, which it does while it handles the request. The verbs must not be
/// called from within a tokio runtime. The socket closes when this is dropped.
pub struct Netlink {
    connection: RefCell<Connection<RouteNetlinkMessage>>,
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// [`NetError::Socket`].
    pub fn open() -> Result<Netlink, NetError> {
        let connect = || -> io::Result<Netlink> {
            let _context = runtime()?.enter();
            // Strict: the kernel filters dumps by what the request says, and refuses what it does not understand.
            let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
            // How a dump ended is in its last message.
            connection.set_forward_done(true);
            let socket = connection.socket_mut().socket_mut();
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(Netlink { connection: RefCell::new(connection), handle })
        };
        connect().map_err(|source| NetError::Socket { source })
    }

    /// Opens a socket in `ns`. The thread is back in its own namespace afterwards; the socket stays there.
    ///
    /// # Errors
    /// [`NetError::Socket`] and [`NetError::Namespace`].
    pub fn open_in(ns: &NetNs) -> Result<Netlink, NetError> {
        ns.run(Netlink::open)?
    }

    /// Sends `message` and returns what the kernel answers before its acknowledgement: the object asked for, or the
    /// echo of the object made (`NLM_F_ECHO`). Asking for the acknowledgement also with a question makes an answer that
    /// cannot be decoded show up as none, instead of being waited for.
    pub(crate) fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        let mut objects = Vec::new();
        for answer in self.exchange(message, flags | NLM_F_ACK)? {
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(refusal(error.raw_code(), error.header.get(REPEATED_HEADER..).unwrap_or_default()));
                }
                NetlinkPayload::Overrun(_) => return Err(Failure::NoAnswer),
                _ => {}
            }
        }
        Ok(objects)
    }

    /// Reads a whole table, again if it changed meanwhile. An entry that cannot be decoded is left out.
    pub(crate) fn dump(&self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        for _ in 0..DUMP_ATTEMPTS {
            let answers = self.exchange(message.clone(), NLM_F_DUMP)?;
            if let Some(objects) = whole_dump(answers)? {
                return Ok(objects);
            }
        }
        Err(Failure::Interrupted)
    }

    fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, Failure> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        let mut answers = pin!(self.handle.clone().request(message).map_err(|_| Failure::NoAnswer)?);
        let mut connection = self.connection.try_borrow_mut().map_err(|_| Failure::NoAnswer)?;
        let mut received = Vec::new();
        // The connection is polled here, not spawned: so it needs no scheduler, and dies with its owner.
        let completed = runtime().map_err(|_| Failure::NoAnswer)?.block_on(poll_fn(|context| {
            loop {
                match answers.poll_next_unpin(context) {
                    Poll::Ready(Some(answer)) => received.push(answer),
                    Poll::Ready(None) => return Poll::Ready(true),
                    Poll::Pending => break,
                }
            }
            // An answer that this finds wakes the stream above, and us with it.
            connection.poll_unpin(context).map(|()| false)
        }));
        if completed { Ok(received) } else { Err(Failure::NoAnswer) }
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

fn runtime() -> io::Result<&'static Runtime> {
    // io::Error is not Clone.
    RUNTIME.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// The dumped objects, or `None` if the table changed between two parts of the dump.
fn whole_dump(answers: Vec<NetlinkMessage<RouteNetlinkMessage>>) -> Result<Option<Vec<RouteNetlinkMessage>>, Failure> {
    let mut objects = Vec::new();
    let mut consistent = true;
    let mut done = false;
    for answer in answers {
        consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(object) => objects.push(object),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(refusal(error.raw_code(), error.header.get(REPEATED_HEADER..).unwrap_or_default()));
            }
            NetlinkPayload::Done(end) if end.code != 0 => return Err(refusal(end.code, &end.extended_ack)),
            NetlinkPayload::Done(_) => done = true,
            NetlinkPayload::Overrun(_) => return Err(Failure::NoAnswer),
            _ => {}
        }
    }
    if !done {
        return Err(Failure::NoAnswer);
    }
    Ok(consistent.then_some(objects))
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
