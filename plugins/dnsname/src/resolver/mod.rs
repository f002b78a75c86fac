//! `dnsname resolver`: answers what containers ask.
//!
//! One thread waits for everything: [`watch`] keeps the names ([`zone`]) as the files have them, [`listen`] the sockets at the
//! gateways; [`answer`] makes an answer of names or sends the question to [`upstream`]; [`tcp`] keeps clients' connections and
//! [`control`] the plugin's. Before each answer the watch is drained: the kernel queues an event before rename(2) and unlink(2) return,
//! so an answer is never older than the latest ADD or DEL.

pub mod answer;
mod control;
mod listen;
mod privileges;
mod queue;
mod resolv_conf;
mod tcp;
pub mod upstream;
mod wait;
mod watch;
pub mod zone;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cni_plugin::companion;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use self::answer::Verdict;
use self::control::Control;
use self::listen::Listeners;
use self::resolv_conf::NodeServers;
use self::tcp::Connections;
use self::upstream::{Finished, Upstream};
use self::wait::{Kind, Poller, Token};
use self::watch::Watch;
use crate::client::own_netns;
use crate::place::{LOCK, Place, RUNNING, open_lock};
use crate::wire::{Answer, Ask};

/// Between two attempts to end while a call holds the lock.
const RETRY: Duration = Duration::from_millis(50);

/// How long one that is being killed may keep its lock.
const ENDING: Duration = Duration::from_secs(2);

/// What is longer than this is no question (a name has 255 bytes); the rest of it is lost.
const LONGEST_QUESTION: usize = 4096;

/// To whom an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// A datagram to a client of a listener.
    Datagram(u64, SocketAddr),
    /// A client's connection.
    Connection(u64),
}

/// The process as the resolver.
pub fn main() -> ExitCode {
    let stays = match arguments(std::env::args_os().skip(2)) {
        Ok(stays) => stays,
        Err(error) => return fail(&error),
    };
    match Resolver::open(stays).and_then(Resolver::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

/// Writes a line to stderr. That the other end is closed is no failure.
fn fail(why: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "dnsname resolver: {why}");
    ExitCode::FAILURE
}

/// Whether it stays when there are no names.
fn arguments(mut given: impl Iterator<Item = OsString>) -> Result<bool, String> {
    match (given.next(), given.next()) {
        (None, _) => Ok(false),
        (Some(word), None) if word == "-stay" || word == "--stay" => Ok(true),
        (Some(word), _) => Err(format!("unknown argument {word:?}: usage: dnsname resolver [-stay]")),
    }
}

/// Takes the lock. One that was killed has closed its socket, for which a call starts another one, a moment before it releases this.
fn lock_soon(running: &File) -> rustix::io::Result<()> {
    let end = Instant::now() + ENDING;
    loop {
        match flock(running, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            outcome => return outcome,
        }
    }
}

struct Resolver {
    poller: Poller,
    watch: Watch,
    listeners: Listeners,
    connections: Connections,
    upstream: Upstream,
    node: NodeServers,
    control: Control,
    /// For a datagram.
    buffer: Vec<u8>,
    netns: u64,
    /// Held until the end: another resolver waits for it, or ends.
    running: File,
    lock: File,
    stays: bool,
}

impl Resolver {
    /// Opens what needs privileges, gives them up, and says that it listens.
    fn open(stays: bool) -> io::Result<Self> {
        // It was started by the name of a link in /proc.
        rustix::thread::set_name(c"dnsname")?;
        let place = Place::new();
        place.create()?;
        std::env::set_current_dir(place.path())?;
        let running = open_lock(RUNNING.as_ref())?;
        // One that stays takes over when another one ends.
        let locked = if stays { flock(&running, FlockOperation::LockExclusive) } else { lock_soon(&running) };
        locked.map_err(|_| io::Error::other(format!("another one runs in {:?}", place.path())))?;
        let lock = open_lock(LOCK.as_ref())?;
        // The end of a session that it was started from isn't its own. It may lead one already.
        let _ = rustix::process::setsid();
        let netns = own_netns()?;
        let poller = Poller::new()?;
        let unheard = |error| io::Error::other(format!("cannot listen at {:?}: {error}", place.socket()));
        let control = Control::listen(&poller).map_err(unheard)?;
        let watch = Watch::new(&poller)?;
        privileges::drop_all()?;
        let (listeners, node) = (Listeners::default(), NodeServers::new());
        let (connections, upstream) = (Connections::default(), Upstream::new());
        let buffer = vec![0; LONGEST_QUESTION];
        let mut resolver = Self {
            poller,
            watch,
            listeners,
            connections,
            upstream,
            node,
            control,
            buffer,
            netns,
            running,
            lock,
            stays,
        };
        resolver.watch.rescan()?;
        resolver.listeners.follow(&resolver.watch.zone, &resolver.poller);
        companion::say_that_it_listens();
        Ok(resolver)
    }

    fn serve(mut self) -> io::Result<()> {
        loop {
            let is_idle = !self.stays && self.watch.zone.is_empty();
            if is_idle && self.may_end()? {
                return Ok(());
            }
            let next = [
                self.connections.deadline(),
                self.upstream.deadline(),
                self.control.deadline(),
                self.listeners.deadline(),
            ];
            let retry = is_idle.then(|| Instant::now() + RETRY);
            let end = next.into_iter().flatten().chain(retry).min();
            for token in self.poller.wait(end)? {
                self.dispatch(token)?;
            }
            self.expire();
        }
    }

    /// True if it may end: under the lock of the calls that write files there still is none.
    fn may_end(&mut self) -> io::Result<bool> {
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        self.refresh()?;
        if self.watch.zone.is_empty() {
            // The next one needs the addresses, and this lock, before the other lock is released.
            self.listeners.close_all();
            flock(&self.running, FlockOperation::Unlock)?;
            return Ok(true);
        }
        flock(&self.lock, FlockOperation::Unlock)?;
        Ok(false)
    }

    /// Reads what has changed in the files, and listens accordingly.
    fn refresh(&mut self) -> io::Result<()> {
        if self.watch.drain()? || self.listeners.has_failed() {
            self.listeners.follow(&self.watch.zone, &self.poller);
        }
        Ok(())
    }

    fn dispatch(&mut self, token: Token) -> io::Result<()> {
        match token.kind {
            Kind::Files => self.refresh()?,
            Kind::Control => self.control.accept(&self.poller),
            Kind::Caller => self.call(token.id),
            Kind::Datagrams => self.datagrams(token.id),
            Kind::Connects => {
                if let Some(listener) = self.listeners.get(token.id) {
                    self.connections.accept(listener, &self.poller);
                }
            }
            Kind::Connection => self.connection(token.id),
            Kind::Upstream => {
                let finished = self.upstream.progress(token.id, &self.poller);
                self.finish(finished);
            }
        }
        Ok(())
    }

    fn expire(&mut self) {
        let now = Instant::now();
        self.connections.expire(now);
        self.control.expire(now);
        self.listeners.expire(now);
        let finished = self.upstream.expire(now, &self.poller);
        self.finish(finished);
    }

    /// Answers the plugin.
    fn call(&mut self, id: u64) {
        let Some(question) = self.control.read(id) else { return };
        if self.refresh().is_err() {
            return self.control.close(id);
        }
        let mut answer = Answer { netns: self.netns, failed: self.listeners.failures(None), names: None };
        if let Ask::Names { directory, key } = question {
            let entry = self.watch.zone.entry(&directory, &key);
            answer.failed = self.listeners.failures(Some(entry.map_or(&[][..], |record| &record.servers)));
            answer.names = entry.map(|record| self.watch.zone.found_by(record));
        }
        self.control.answer(id, &answer);
    }

    fn datagrams(&mut self, id: u64) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        let (most, mut taken) = (listener.queue.begin(), 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        while taken < most && self.datagram(id, &mut buffer) {
            taken += 1;
        }
        self.buffer = buffer;
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.queue.end(taken, most, &listener.datagrams);
        }
    }

    /// Answers one question; false if there is none.
    fn datagram(&mut self, id: u64, buffer: &mut [u8]) -> bool {
        let Some(listener) = self.listeners.get_mut(id) else { return false };
        let Ok((length, peer)) = listener.datagrams.recv_from(buffer) else { return false };
        listener.queue.count(peer.ip());
        let server = listener.server;
        if self.refresh().is_err() {
            return false;
        }
        self.question(&buffer[..length], server, Reply::Datagram(id, peer), peer.ip());
        true
    }

    fn connection(&mut self, id: u64) {
        let Some((server, peer, questions)) = self.connections.progress(id, &self.poller) else { return };
        for question in questions {
            if self.refresh().is_err() {
                return;
            }
            self.question(&question, server, Reply::Connection(id), peer);
        }
    }

    fn question(&mut self, message: &[u8], server: IpAddr, reply: Reply, client: IpAddr) {
        let zone = &self.watch.zone;
        let is_datagram = matches!(reply, Reply::Datagram(..));
        match answer::answer(zone, server, client, message, is_datagram, &mut self.upstream.random) {
            Verdict::Answer(bytes) => self.reply(reply, &bytes),
            Verdict::Ignore => {}
            Verdict::Upstream(configured) => {
                let listeners = &self.listeners;
                let servers = configured.unwrap_or_else(|| self.node.servers(|address| listeners.serves(address)));
                match self.upstream.ask(message, &servers, reply, client, &self.poller) {
                    Ok(finished) => self.finish(finished),
                    Err(()) => {
                        if let Some(bytes) = answer::failure(message) {
                            self.reply(reply, &bytes);
                        }
                    }
                }
            }
        }
    }

    fn finish(&mut self, finished: Vec<Finished>) {
        for Finished { reply, answer } in finished {
            self.reply(reply, &answer);
        }
    }

    fn reply(&mut self, reply: Reply, bytes: &[u8]) {
        match reply {
            // A full buffer or a client that is gone: it asks again.
            Reply::Datagram(id, peer) => {
                if let Some(listener) = self.listeners.get(id) {
                    let _ = listener.datagrams.send_to(bytes, peer);
                }
            }
            Reply::Connection(id) => self.connections.send(id, bytes, &self.poller),
        }
    }
}
