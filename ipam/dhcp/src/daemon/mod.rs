//! `dhcp daemon`: keeps the leases while containers run.
//!
//! A thread for each connection and one for each lease. It may be killed at any time: leases are files, and a daemon that starts
//! goes on where the last one was.

mod lease;
pub mod link;
mod options;
pub mod place;
mod times;
pub mod v4;
pub mod v6;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cni_plugin::companion::{read_line, say_that_it_listens, write_line};
use cni_plugin::{IfName, IpConfig, NetworkName, Owner};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};

use crate::wire::{self, Answer, Call, LONGEST, Options, OwnerName, Wanted};
use lease::{Keeper, Shared};
use link::{LinkError, LinkId};
use options::Arguments;
use place::{Place, Record};

/// How long a caller may take to say what it wants, and to take its answer.
const CALLER: Duration = Duration::from_secs(10);
/// Between two looks whether there is still something to do.
const LOOK: Duration = Duration::from_secs(1);

/// Who asks a server, and how.
pub struct Client<'c> {
    link: &'c LinkId,
    options: &'c Options,
    /// The longest pause between two messages.
    longest: Duration,
    /// Answers are to be broadcast.
    broadcast: bool,
    /// True if the lease is to end.
    stops: &'c dyn Fn() -> bool,
}

/// What of it the daemon's arguments say.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    longest: Duration,
    broadcast: bool,
}

/// Why a server gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No server has answered.
    #[error("no {what} server gives an address to {ifname}: is one on the same link, and has it free addresses?")]
    NoAnswer {
        /// The protocol.
        what: &'static str,
        /// The link.
        ifname: IfName,
    },
    /// It wants the address back.
    #[error("the DHCP server no longer lets it have {0}")]
    Refused(IpAddr),
    /// No server prolonged it.
    #[error("no DHCP server prolonged the lease of {0}, and it has ended")]
    Ended(IpAddr),
    /// Not to be put into words.
    #[error("{0}")]
    Message(String),
}

impl ExchangeError {
    /// True if the address may not be used any longer.
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Ended(_))
    }
}

/// True if a host can have this address.
fn is_host(ip: IpAddr) -> bool {
    IpConfig { interface: None, address: ip.into(), gateway: None }.refuse_unusable().is_ok()
}

/// True for one word, as a line of `resolv.conf` has it: a server must not be able to add lines.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.ifname, self.mac)
    }
}

/// Writes a line to stderr. A failure is ignored: the process that started the daemon may have closed the other end.
fn log(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "dhcp daemon: {line}");
}

/// The process as a daemon.
pub fn main() -> ExitCode {
    let ran = Arguments::parse().and_then(|arguments| Daemon::open(arguments)?.serve());
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

/// What the connections share.
struct Leases {
    place: Place,
    arguments: Arguments,
    of_owner: Mutex<HashMap<String, (Wanted, Arc<Shared>)>>,
    calls: Mutex<usize>,
}

struct Daemon {
    listener: UnixListener,
    /// systemd has the socket, and starts the daemon again.
    is_handed: bool,
    lock: File,
    leases: Arc<Leases>,
}

impl Daemon {
    fn open(arguments: Arguments) -> io::Result<Self> {
        let place = Place::of(&arguments.socket);
        place.create()?;
        let lock = place.open_lock()?;
        let handed = listenfd::ListenFd::from_env().take_unix_listener(0)?;
        let is_handed = handed.is_some();
        let listener = match handed {
            Some(listener) => listener,
            None => arguments.listen()?,
        };
        listener.set_nonblocking(true)?;
        if let Some(path) = &arguments.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id()))?;
        }
        // The end of a session that it was started from isn't its own. It may lead one already.
        let _ = rustix::process::setsid();
        say_that_it_listens();
        let leases = Leases { place, arguments, of_owner: Mutex::default(), calls: Mutex::default() };
        Ok(Self { listener, is_handed, lock, leases: Arc::new(leases) })
    }

    fn serve(self) -> io::Result<()> {
        for record in self.leases.place.records()? {
            self.leases.keep(record, Duration::ZERO);
        }
        let mut idle_since = Instant::now();
        loop {
            if self.leases.are_there() {
                idle_since = Instant::now();
            } else if self.leases.arguments.idle.is_some_and(|idle| idle_since.elapsed() >= idle) && self.may_end()? {
                return Ok(());
            }
            let timeout = Timespec::try_from(LOOK).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let _ = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&timeout));
            self.accept();
        }
    }

    fn accept(&self) {
        match self.listener.accept() {
            Ok((stream, _)) => {
                *count(&self.leases.calls) += 1;
                let leases = Arc::clone(&self.leases);
                let started = thread::Builder::new().spawn(move || {
                    leases.answer(stream);
                    *count(&leases.calls) -= 1;
                });
                if let Err(error) = started {
                    *count(&self.leases.calls) -= 1;
                    log(format_args!("cannot answer a call: {error}"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                log(format_args!("cannot accept a call: {error}"));
                thread::sleep(LOOK);
            }
        }
    }

    /// Returns whether the daemon may end. Clients connect under the same lock, so that no call is lost. Removes the socket, unless
    /// systemd created it.
    fn may_end(&self) -> io::Result<bool> {
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        self.accept();
        if self.leases.are_there() {
            flock(&self.lock, FlockOperation::Unlock)?;
            return Ok(false);
        }
        if !self.is_handed {
            std::fs::remove_file(&self.leases.arguments.socket)?;
        }
        Ok(true)
    }
}

impl Arguments {
    /// A socket that only root can connect to. The socket of a daemon that has ended is replaced.
    fn listen(&self) -> io::Result<UnixListener> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen at {:?}: {error}", self.socket));
        let bind = || UnixListener::bind(&self.socket);
        let listener = match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if UnixStream::connect(&self.socket).is_ok() {
                    let said = format!("another daemon listens at {:?}", self.socket);
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, said));
                }
                std::fs::remove_file(&self.socket).and_then(|()| bind())
            }
            bound => bound,
        };
        let listener = listener.map_err(named)?;
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

fn count<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    fn are_there(&self) -> bool {
        let mut of_owner = count(&self.of_owner);
        of_owner.retain(|_, (_, shared)| !shared.has_ended());
        !of_owner.is_empty() || *count(&self.calls) > 0
    }

    fn answer(&self, mut stream: UnixStream) {
        let answered = (|| {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(CALLER))?;
            stream.set_write_timeout(Some(CALLER))?;
            let call = read_line(&mut stream, LONGEST)?;
            write_line(&mut stream, &self.carry_out(call))
        })();
        if let Err(error) = answered {
            log(format_args!("a call was not answered: {error}"));
        }
    }

    fn carry_out(&self, call: Call) -> Answer {
        match call {
            Call::Add { wanted, seconds } => {
                let wanted = Wanted { netns: self.arguments.on_node(&wanted.netns), ..wanted };
                granted(self.add(wanted, Duration::from_secs(seconds)).granted())
            }
            Call::Check(owner) => {
                let kept = count(&self.of_owner).get(&owner.owner().key()).map(|(_, shared)| Arc::clone(shared));
                let absent = || Answer::Failed(format!("there is no lease for {}", owner.owner()));
                kept.filter(|shared| !shared.has_ended()).map_or_else(absent, |shared| granted(shared.granted()))
            }
            Call::Del(owner) => {
                self.end(|key, _| key == owner.owner().key());
                Answer::Done
            }
            Call::Gc { network, valid } => {
                self.retain(&network, &valid);
                Answer::Done
            }
        }
    }

    /// The owner's lease if it is on the same link and was asked for in the same way, else a new one.
    fn add(&self, wanted: Wanted, limit: Duration) -> Arc<Shared> {
        let key = wanted.owner.owner().key();
        let kept = count(&self.of_owner).get(&key).cloned();
        if let Some((before, shared)) = kept {
            let is_same = before.netns == wanted.netns && before.options == wanted.options;
            if is_same && !shared.has_ended() && shared.granted().is_ok() {
                return shared;
            }
            self.end(|found, _| found == key);
        }
        let record = Record { wanted, link: None, is_lost: false, v4: None, v6: None };
        self.keep(record, limit)
    }

    /// Starts the thread of a lease.
    fn keep(&self, record: Record, limit: Duration) -> Arc<Shared> {
        let shared = Arc::new(Shared::default());
        let (key, wanted) = (record.wanted.owner.owner().key(), record.wanted.clone());
        count(&self.of_owner).insert(key, (wanted, Arc::clone(&shared)));
        let (kept, place, pace) = (Arc::clone(&shared), self.place.clone(), self.arguments.pace());
        let started =
            thread::Builder::new().spawn(move || Keeper { record, shared: &kept, place: &place, pace }.run(limit));
        if let Err(error) = started {
            shared.fail(format!("there is no thread for the lease: {error}"));
        }
        shared
    }

    fn retain(&self, network: &NetworkName, valid: &[OwnerName]) {
        let valid: Vec<Owner> = valid.iter().map(OwnerName::owner).collect();
        self.end(|_, owner| owner.network == *network && !valid.contains(owner));
    }

    /// Ends these leases, all at once, and waits until they have ended.
    fn end(&self, is_meant: impl Fn(&str, &Owner) -> bool) {
        let meant = |(key, (wanted, shared)): (&String, &(Wanted, Arc<Shared>))| {
            is_meant(key, &wanted.owner.owner()).then(|| Arc::clone(shared))
        };
        let ending: Vec<_> = count(&self.of_owner).iter().filter_map(meant).collect();
        ending.iter().for_each(|shared| shared.stop());
        ending.iter().for_each(|shared| shared.ended());
    }
}

fn granted(outcome: Result<wire::Granted, String>) -> Answer {
    outcome.map_or_else(Answer::Failed, Answer::Granted)
}
