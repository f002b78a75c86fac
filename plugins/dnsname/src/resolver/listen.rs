//! The sockets at which containers ask: one for datagrams and one for connections at each gateway.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::queue::Queue;
use super::wait::{Kind, Poller, Token};
use super::zone::Zone;
use crate::plan::PORT;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Between two attempts to listen where that has failed.
const RETRY: Duration = Duration::from_secs(1);

/// A gateway.
#[derive(Debug)]
pub struct Listener {
    /// Its address.
    pub server: IpAddr,
    /// Questions in datagrams.
    pub datagrams: UdpSocket,
    /// Those that wait there.
    pub queue: Queue,
    /// Connections.
    pub connections: TcpListener,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Listeners {
    open: HashMap<u64, Listener>,
    ids: HashMap<IpAddr, u64>,
    failed: HashMap<IpAddr, String>,
    tried: Option<Instant>,
    next: u64,
}

impl Listeners {
    /// The one with this number.
    pub fn get(&self, id: u64) -> Option<&Listener> {
        self.open.get(&id)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Listener> {
        self.open.get_mut(&id)
    }

    /// When [`Self::expire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.open.values().filter_map(|listener| listener.queue.deadline()).min()
    }

    /// Lets in again whose time is over.
    pub fn expire(&mut self, now: Instant) {
        for listener in self.open.values_mut() {
            listener.queue.expire(now, &listener.datagrams);
        }
    }

    /// True if the resolver itself is asked at this address, port 53.
    pub fn serves(&self, address: SocketAddr) -> bool {
        self.ids.contains_key(&address.ip()) && (address.port() == 53 || address.port() == PORT)
    }

    /// True if it should be tried again to listen somewhere.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty() && self.tried.is_none_or(|tried| tried.elapsed() >= RETRY)
    }

    /// Why it doesn't listen at these addresses, or at any.
    pub fn failures(&self, at: Option<&[IpAddr]>) -> Vec<String> {
        let is_meant = |address: &IpAddr| at.is_none_or(|at| at.contains(address));
        self.failed.iter().filter(|(address, _)| is_meant(address)).map(|(_, why)| why.clone()).collect()
    }

    /// Listens where the zone's containers ask, and nowhere else.
    pub fn follow(&mut self, zone: &Zone, poller: &Poller) {
        let wanted: Vec<IpAddr> = zone.servers().collect();
        if wanted.len() != self.ids.len() || !wanted.iter().all(|server| self.ids.contains_key(server)) {
            let gone = |server: &IpAddr| !wanted.contains(server);
            let ids: Vec<u64> = self.ids.iter().filter(|(server, _)| gone(server)).map(|(_, id)| *id).collect();
            for id in ids {
                // Closed sockets leave the poller by themselves.
                if let Some(listener) = self.open.remove(&id) {
                    self.ids.remove(&listener.server);
                }
            }
            self.failed.retain(|server, _| wanted.contains(server));
        }
        for server in wanted.into_iter().filter(|server| !self.ids.contains_key(server)).collect::<Vec<_>>() {
            self.tried = Some(Instant::now());
            match self.open(server, poller) {
                Ok(()) => drop(self.failed.remove(&server)),
                Err(error) => {
                    let why = format!("{}: {error}", SocketAddr::new(server, PORT));
                    self.failed.insert(server, why);
                }
            }
        }
    }

    fn open(&mut self, server: IpAddr, poller: &Poller) -> io::Result<()> {
        let datagrams = UdpSocket::from(bound(server, SocketType::DGRAM)?);
        let stream = bound(server, SocketType::STREAM)?;
        listen(&stream, BACKLOG)?;
        let connections = TcpListener::from(stream);
        self.next += 1;
        poller.add(&datagrams, Token { kind: Kind::Datagrams, id: self.next }, false)?;
        poller.add(&connections, Token { kind: Kind::Connects, id: self.next }, false)?;
        self.ids.insert(server, self.next);
        self.open.insert(self.next, Listener { server, datagrams, queue: Queue::default(), connections });
        Ok(())
    }

    /// Closes all.
    pub fn close_all(&mut self) {
        *self = Self::default();
    }
}

/// A socket at the address, whether a link has that at present or not (`IP_FREEBIND`): a bridge may be deleted and come back.
fn bound(server: IpAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if server.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        // Connections of an earlier resolver may be in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(server, PORT))?;
    Ok(socket)
}
