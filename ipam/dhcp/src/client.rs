//! The plugin's way to the daemon, its companion: connects, and starts one where none listens.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni_plugin::companion::{Companion, Connection, StartError, connect};
use cni_plugin::{CniError, deadline, lock_whole, state};
use rustix::fs::FlockOperation;

use crate::daemon::place::Place;
use crate::wire::{Answer, Call, LONGEST};

/// How long an answer may take: a lease's time, and some.
const CALL: Duration = Duration::from_secs(36);
/// How long a daemon that was started by a call stays without a lease, in seconds.
const IDLE: &str = "60";

/// Why the daemon can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It doesn't answer.
    #[error("the DHCP daemon at {0:?} does not answer: {1}")]
    Call(PathBuf, io::Error),
    /// It was killed, say.
    #[error("the DHCP daemon at {0:?} has ended without an answer")]
    Ended(PathBuf),
    /// It can't be started.
    #[error("cannot start a DHCP daemon at {0:?}: {1}")]
    Start(PathBuf, StartError),
    /// Its directory can't be used.
    #[error("cannot start a DHCP daemon at {0:?}: {1}")]
    Place(PathBuf, io::Error),
}

/// A connection to the daemon, for one call.
pub struct Daemon {
    connection: Connection,
    socket: PathBuf,
}

impl Daemon {
    /// Connects; `None` if no daemon listens.
    fn connect(socket: &Path) -> Result<Option<Self>, ClientError> {
        let connection = connect(socket).map_err(|error| ClientError::Call(socket.to_owned(), error))?;
        Ok(connection.map(|connection| Self { connection, socket: socket.to_owned() }))
    }

    /// Connects, and starts a daemon where none listens. Two calls at once start one: it is done under a lock, under which the
    /// daemon also decides to end.
    pub fn connect_or_start(socket: &Path) -> Result<Self, CniError> {
        let place = Place::of(socket);
        let failed = |error: io::Error| ClientError::Place(socket.to_owned(), error);
        place.create().map_err(failed)?;
        let lock = place.open_lock().map_err(failed)?;
        let operation = FlockOperation::NonBlockingLockExclusive;
        lock_whole(&lock, &place.lock_path(), "the DHCP daemon's start", operation, deadline::LOCK)
            .map_err(|error| failed(error.into()))??;
        if let Some(daemon) = Self::connect(socket)? {
            return Ok(daemon);
        }
        Ok(Self::start(socket)?)
    }

    fn start(socket: &Path) -> Result<Self, ClientError> {
        let [daemon, at, idle, seconds] = ["daemon", "-socketpath", "-idle", IDLE].map(OsStr::new);
        let arguments = &[daemon, at, socket.as_os_str(), idle, seconds];
        let companion = Companion { name: "dhcp", arguments, description: "DHCP leases of containers", socket };
        let connection = companion.start().map_err(|error| ClientError::Start(socket.to_owned(), error))?;
        Ok(Self { connection, socket: socket.to_owned() })
    }

    /// Asks, and waits for the answer. A refusal is an error.
    pub fn call(self, call: &Call) -> Result<Answer, CniError> {
        let ended = ClientError::Ended(self.socket.clone());
        self.call_unless_ended(call)?.ok_or_else(|| ended.into())
    }

    /// As [`Self::call`]; `None` if the daemon ended instead of answering.
    fn call_unless_ended(self, call: &Call) -> Result<Option<Answer>, CniError> {
        let Self { connection, socket } = self;
        match connection.ask(call, CALL, LONGEST).map_err(|error| ClientError::Call(socket, error))? {
            Some(Answer::Failed(why)) => Err(CniError::plugin(why)),
            answer => Ok(answer),
        }
    }
}

impl Answer {
    /// An answer to another question.
    pub fn unexpected(&self) -> CniError {
        CniError::plugin(format!("the DHCP daemon gave an answer to another question: {self:?}"))
    }
}

/// Asks the daemon, and one is started only where an earlier one has left leases under a key that begins so.
pub fn call_if_kept(socket: &Path, key: &str, call: &Call) -> Result<(), CniError> {
    // Without the lock: a daemon may be about to end.
    if let Some(daemon) = Daemon::connect(socket)?
        && daemon.call_unless_ended(call)?.is_some()
    {
        return Ok(());
    }
    let place = Place::of(socket);
    let failed = |error: io::Error| ClientError::Place(socket.to_owned(), error);
    if !place.has_lease(key).map_err(failed)? {
        return Ok(());
    }
    Daemon::connect_or_start(socket)?.call(call).map(drop)
}

/// Says whether a daemon answers, or could be started. Creates nothing.
pub fn probe(socket: &Path) -> Result<(), CniError> {
    if Daemon::connect(socket)?.is_some() {
        return Ok(());
    }
    let place = Place::of(socket);
    let failed = |error: io::Error| ClientError::Place(socket.to_owned(), error);
    match place.open().map_err(failed)? {
        Some(directory) => directory.probe().map_err(failed)?,
        None => state::StateDir::probe_make(place.directory()).map_err(failed)?,
    }
    Ok(())
}
