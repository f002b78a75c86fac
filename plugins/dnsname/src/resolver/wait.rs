//! Waiting for many descriptors: epoll(7), level-triggered.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

/// How many events are read at once.
const EVENTS: usize = 64;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The watch on the files.
    Files,
    /// The plugin's socket.
    Control,
    /// A connection of the plugin's.
    Caller,
    /// A listener's datagrams.
    Datagrams,
    /// A listener's connections.
    Connects,
    /// A client's connection.
    Connection,
    /// A question that was passed on.
    Upstream,
}

const KINDS: [Kind; 7] =
    [Kind::Files, Kind::Control, Kind::Caller, Kind::Datagrams, Kind::Connects, Kind::Connection, Kind::Upstream];
const KIND_SHIFT: u32 = 56;

/// A descriptor's kind, and which of that kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The kind.
    pub kind: Kind,
    /// Which one; of its kind no other ever has it.
    pub id: u64,
}

impl Token {
    /// The only one of its kind.
    pub fn single(kind: Kind) -> Self {
        Self { kind, id: 0 }
    }

    fn data(self) -> EventData {
        EventData::new_u64((self.kind as u64) << KIND_SHIFT | self.id)
    }

    fn read(data: u64) -> Option<Self> {
        let kind = *KINDS.get(usize::try_from(data >> KIND_SHIFT).ok()?)?;
        Some(Self { kind, id: data & ((1 << KIND_SHIFT) - 1) })
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Waits for this descriptor too: until it can be read, and until it can be written if `to_write`.
    pub fn add(&self, fd: impl AsFd, token: Token, to_write: bool) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, token.data(), flags(to_write))?)
    }

    /// Changes what is waited for.
    pub fn change(&self, fd: impl AsFd, token: Token, to_write: bool) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, token.data(), flags(to_write))?)
    }

    /// Waits for events, until `end` at most.
    pub fn wait(&self, end: Option<Instant>) -> io::Result<Vec<Token>> {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }));
        let mut events = [MaybeUninit::uninit(); EVENTS];
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((events, _)) => Ok(events.iter().filter_map(|event| Token::read(event.data.u64())).collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn flags(to_write: bool) -> EventFlags {
    if to_write { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
}
