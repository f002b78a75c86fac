//! What can go wrong with the state on disk.

use std::net::IpAddr;
use std::path::PathBuf;

use cni_plugin::Held;
use rustix::io::Errno;

use super::holder::Holder;

/// An operation on the state that failed, and on what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot create the directory of reservations {}: {source}", path.display())]
    CreateDir { path: PathBuf, source: std::io::Error },
    #[error("cannot open the directory of reservations {}: {source}{}", path.display(), symlink_hint(source))]
    OpenDir { path: PathBuf, source: std::io::Error },
    #[error("cannot lock {}/lock: {source}{}", path.display(), symlink_hint(&(*source).into()))]
    Lock { path: PathBuf, source: Errno },
    #[error(transparent)]
    Busy(#[from] Held),
    #[error("cannot list the reservations in {}: {source}", path.display())]
    List { path: PathBuf, source: std::io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("{ip} is held by {holder}")]
    Held { ip: IpAddr, holder: Holder },
    #[error("{ip} is blocked: {} is not a regular file", path.display())]
    Blocked { ip: IpAddr, path: PathBuf },
}

impl StoreError {
    /// True if there was no room for what was to be written.
    pub(crate) fn is_full_disk(&self) -> bool {
        let full = [Some(Errno::NOSPC), Some(Errno::DQUOT)];
        matches!(self, Self::Write { source, .. } if full.contains(&Errno::from_io_error(source)))
    }
}

fn symlink_hint(error: &std::io::Error) -> &'static str {
    if [Some(Errno::LOOP), Some(Errno::NOTDIR)].contains(&Errno::from_io_error(error)) {
        " (symbolic links are not followed here; ipam.dataDir itself may be one)"
    } else {
        ""
    }
}

/// Of several failures the first is reported; what comes after it is still tried.
#[derive(Debug, Default)]
pub(crate) struct FirstFailure(Option<StoreError>);

impl FirstFailure {
    /// Notes the outcome of one step; false if it failed.
    pub(crate) fn note<T>(&mut self, outcome: Result<T, StoreError>) -> bool {
        match outcome {
            Ok(_) => true,
            Err(error) => {
                self.0.get_or_insert(error);
                false
            }
        }
    }

    /// The first failure, if there was one.
    pub(crate) fn verdict(self) -> Result<(), StoreError> {
        self.0.map_or(Ok(()), Err)
    }
}
