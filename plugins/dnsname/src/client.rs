//! The plugin's way to the resolver, its companion: asks, and starts one where none runs.

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cni_plugin::companion::{Companion, Connection, StartError, connect};
use cni_plugin::{CniError, Owner};

use crate::name::Name;
use crate::place::{Place, directory_name};
use crate::wire::{Answer, Ask, LONGEST};

/// How long a resolver that listens may take to answer.
const CALL: Duration = Duration::from_secs(5);

/// Why the resolver can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It doesn't answer.
    #[error("the resolver at {0:?} does not answer: {1}")]
    Call(PathBuf, io::Error),
    /// It can't be started.
    #[error("cannot start the resolver of containers' names: {0}")]
    Start(#[from] StartError),
    /// It was started, and has ended.
    #[error("the resolver of containers' names has ended at once")]
    Ended,
    /// It can't listen.
    #[error("the resolver cannot listen: {0}")]
    Listen(String),
    /// It has not read an owner's file.
    #[error("the resolver cannot read what is in {0:?}: root:65534 and mode 2750 are expected, and files of mode 0640")]
    Unread(PathBuf),
    /// Another node's, by its directory.
    #[error(
        "the resolver of {path:?} runs in another network namespace ({resolver}) than this plugin ({plugin}): nodes in namespaces need a \
         /run of their own"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// The inode of the resolver's namespace.
        resolver: u64,
        /// The inode of the plugin's.
        plugin: u64,
    },
}

/// Asks the resolver; `None` if none runs. One that ends meanwhile is none.
pub fn ask(place: &Place, question: &Ask) -> Result<Option<Answer>, ClientError> {
    let connection = connect(&place.socket()).map_err(|error| ClientError::Call(place.socket(), error))?;
    connection.map_or(Ok(None), |connection| ask_over(connection, place, question))
}

fn ask_over(connection: Connection, place: &Place, question: &Ask) -> Result<Option<Answer>, ClientError> {
    let failed = |error: io::Error| ClientError::Call(place.socket(), error);
    let Some(answer) = connection.ask::<Answer>(question, CALL, LONGEST).map_err(failed)? else { return Ok(None) };
    let (resolver, plugin) = (answer.netns, own_netns().map_err(failed)?);
    if resolver != plugin {
        return Err(ClientError::OtherNode { path: place.path().to_owned(), resolver, plugin });
    }
    Ok(Some(answer))
}

/// The inode of the network namespace of the calling thread.
pub fn own_netns() -> io::Result<u64> {
    Ok(rustix::fs::stat("/proc/thread-self/ns/net")?.st_ino)
}

/// Asks for an owner's names, and starts a resolver if none runs. To be called under the lock of [`Place::lock`], under which a
/// resolver also ends.
///
/// # Errors
/// Also if it can't listen where the owner asks.
pub fn names(place: &Place, owner: &Owner) -> Result<Vec<(Name, Vec<IpAddr>)>, CniError> {
    let question = Ask::Names { directory: directory_name(&owner.network), key: owner.key() };
    let answer = match ask(place, &question)? {
        Some(answer) => answer,
        None => ask_over(start(place)?, place, &question)?.ok_or(ClientError::Ended)?,
    };
    if !answer.failed.is_empty() {
        return Err(ClientError::Listen(answer.failed.join("; ")).into());
    }
    answer.names.ok_or_else(|| ClientError::Unread(place.path().join(directory_name(&owner.network))).into())
}

/// Starts a resolver if none runs although there are files: one that was killed. Under the lock of [`Place::lock`]. That none can be
/// started is no failure of a call that removes.
pub fn heal(place: &Place) {
    let needs_one = || Ok::<_, CniError>(!place.is_empty()? && ask(place, &Ask::Alive)?.is_none());
    let healed = needs_one().and_then(|needed| if needed { Ok(start(place).map(drop)?) } else { Ok(()) });
    if let Err(error) = healed {
        eprintln!("names of other containers are not found: {error}");
    }
}

fn start(place: &Place) -> Result<Connection, ClientError> {
    let companion = Companion {
        name: "dnsname",
        arguments: &[OsStr::new("resolver")],
        description: "names of containers",
        socket: &place.socket(),
    };
    Ok(companion.start()?)
}
