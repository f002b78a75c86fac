//! What changes in a namespace's network, as the kernel reports it to route sockets.
//!
//! The kernel does not report everything: IPv4 routes that go with a link that is set down go silently (`fib_sync_down_dev` in
//! net/ipv4/fib_semantics.c), and reports that find no room are dropped. So a report says that something may have changed; what is
//! there is read with the lists.

use std::io;

use netlink_packet_core::{NLMSG_ALIGNTO, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::errno::Errno;
use crate::error::NetError;
use crate::netlink::rtm;

/// Multicast groups (`RTNLGRP_*` of `include/uapi/linux/rtnetlink.h`): links, neighbours, addresses and routes of both IP versions.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// Larger than any report.
const RECEIVE: usize = 64 * 1024;

/// A socket that receives reports of changes in the namespace that it was opened in.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
}

/// Of which kinds of objects some have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// A link or an address came, went or changed.
    pub links: bool,
    /// A route came or went.
    pub routes: bool,
    /// A neighbour or a forwarding entry was deleted. That one came or changed is not counted: that is everyday ARP.
    pub neighbours: bool,
}

impl Changes {
    /// True if something has changed.
    pub fn any(&self) -> bool {
        self.links || self.routes || self.neighbours
    }

    fn add(&mut self, kind: u16) {
        match kind {
            rtm::NEWLINK | rtm::DELLINK | rtm::NEWADDR | rtm::DELADDR => self.links = true,
            rtm::NEWROUTE | rtm::DELROUTE => self.routes = true,
            rtm::DELNEIGH => self.neighbours = true,
            _ => {}
        }
    }
}

impl Events {
    /// Listens in the calling thread's namespace from now on.
    ///
    /// # Errors
    /// [`NetError::Socket`].
    pub fn open() -> Result<Self, NetError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(|source| NetError::Socket { source })? })
    }

    /// Waits for a report. Everything may have changed if reports were lost.
    ///
    /// # Errors
    /// The socket's.
    pub fn wait(&self) -> io::Result<Changes> {
        let mut buffer = Vec::with_capacity(RECEIVE);
        match self.socket.recv_from(&mut buffer, 0) {
            // Another process may send to any netlink socket; the kernel's number is 0.
            Ok((_, from)) if from.port_number() != 0 => Ok(Changes::default()),
            Ok(_) => Ok(changes(&buffer)),
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS) => {
                Ok(Changes { links: true, routes: true, neighbours: true })
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Changes::default()),
            Err(error) => Err(error),
        }
    }
}

fn changes(mut rest: &[u8]) -> Changes {
    let mut changes = Changes::default();
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        changes.add(message.message_type());
        let length = (message.length() as usize).next_multiple_of(usize::from(NLMSG_ALIGNTO));
        rest = rest.get(length..).unwrap_or_default();
    }
    changes
}
