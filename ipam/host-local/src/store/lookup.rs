//! Which addresses are taken, and by whom: answered by the index while it is valid, by a scan of the files otherwise.

use std::io;
use std::time::Duration;

use super::directory::{NetworkDir, Place};
use super::error::StoreError;
use super::holder::Holder;
use super::index::{Found, Index};
use super::scan::Scan;
use crate::pool::Address;

/// For how long the answer that a range set is full is believed without reading the files again.
const FULL_FOR: Duration = Duration::from_secs(60);

/// The answers, and the index that is kept up to date with what is reserved and released.
#[derive(Debug)]
pub(super) struct Lookup {
    place: Place,
    pub(super) source: Source,
}

/// Where answers come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Nothing has been asked yet.
    Unopened,
    Index(Index),
    /// There can be no index: on a full or a read-only filesystem.
    Scan(Scan),
}

impl Lookup {
    pub(super) fn new(place: Place) -> Self {
        Self { place, source: Source::Unopened }
    }

    /// Opens the index, or makes one of a scan. To be called before the directory is changed, for a change makes the index
    /// invalid. Idempotent.
    pub(super) fn open(&mut self, dir: &NetworkDir) -> Result<(), StoreError> {
        if !matches!(self.source, Source::Unopened) {
            return Ok(());
        }
        match Index::open(&self.place, dir.fd()) {
            Found::Valid(index) => self.source = Source::Index(index),
            Found::Stale { this_boot } => {
                let mut scan = Scan::of(dir)?;
                if self.place.reclaim_after_reboot && !this_boot {
                    scan.reclaim_earlier_boots(dir)?;
                }
                self.replace_index(&scan);
                if matches!(self.source, Source::Unopened) {
                    self.source = Source::Scan(scan);
                }
            }
        }
        Ok(())
    }

    /// Asks the index; one that fails to answer is made anew, and the scan that it is made of answers.
    fn ask<T>(
        &mut self,
        dir: &NetworkDir,
        index: impl Fn(&Index) -> io::Result<T>,
        scan: impl Fn(&Scan) -> T,
    ) -> Result<T, StoreError> {
        self.open(dir)?;
        match &self.source {
            Source::Index(found) => match index(found) {
                Ok(answer) => Ok(answer),
                Err(_) => self.rebuild(dir).map(|found| scan(&found)),
            },
            Source::Scan(found) => Ok(scan(found)),
            Source::Unopened => Scan::of(dir).map(|found| scan(&found)),
        }
    }

    /// The addresses of this holder.
    pub(super) fn holdings(&mut self, dir: &NetworkDir, holder: &Holder) -> Result<Vec<Address>, StoreError> {
        let key = holder.key().unwrap_or_default();
        self.ask(dir, |index| index.holdings(&key), |scan| scan.holdings(|found| found == holder))
    }

    /// The first address from `from` to `to` that isn't taken.
    pub(super) fn next_free(
        &mut self,
        dir: &NetworkDir,
        from: Address,
        to: Address,
    ) -> Result<Option<Address>, StoreError> {
        self.ask(dir, |index| index.next_free(from, to), |scan| scan.next_free(from, to))
    }

    /// True if the files were read so long ago that one may have been emptied in place since, which the directory's time
    /// doesn't tell.
    pub(super) fn is_old(&self) -> bool {
        matches!(&self.source, Source::Index(index) if index.is_older_than(FULL_FOR))
    }

    /// Scans and makes a new index, because the present one is wrong. Returns the scan.
    pub(super) fn rebuild(&mut self, dir: &NetworkDir) -> Result<Scan, StoreError> {
        self.source = Source::Unopened;
        Index::discard(&self.place);
        let scan = Scan::of(dir)?;
        self.replace_index(&scan);
        Ok(scan)
    }

    /// Makes an index of the scan, if that is possible.
    pub(super) fn replace_index(&mut self, scan: &Scan) {
        let built = Index::build(&self.place, scan);
        self.source = built.map_or(Source::Unopened, Source::Index);
    }

    /// Writes to the directory; where the disk is full, a second time with the room that the index had.
    pub(super) fn with_room<T>(
        &mut self,
        dir: &NetworkDir,
        write: impl Fn(&NetworkDir) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match write(dir) {
            Err(error) if error.is_full_disk() && matches!(self.source, Source::Index(_)) => {
                self.source = Source::Scan(Scan::of(dir)?);
                Index::discard(&self.place);
                write(dir)
            }
            written => written,
        }
    }

    /// Adds what has just been reserved.
    pub(super) fn insert(&mut self, dir: &NetworkDir, ip: Address, holder: Holder) -> Result<(), StoreError> {
        match &mut self.source {
            Source::Index(index) => {
                let key = holder.key().unwrap_or_default();
                if index.is_full() || index.insert(&key, ip).is_err() {
                    self.rebuild(dir)?;
                }
            }
            Source::Scan(scan) => drop(scan.taken.insert(ip, Some(holder))),
            Source::Unopened => {}
        }
        Ok(())
    }

    /// Removes what has just been released.
    pub(super) fn remove(&mut self, dir: &NetworkDir, ip: Address, holder: &Holder) -> Result<(), StoreError> {
        match &mut self.source {
            Source::Index(index) => {
                let key = holder.key().unwrap_or_default();
                if index.remove(&key, ip).is_err() {
                    self.rebuild(dir)?;
                }
            }
            Source::Scan(scan) => drop(scan.taken.remove(&ip)),
            Source::Unopened => {}
        }
        Ok(())
    }

    /// Leaves the index valid, if there is one and it is whole: [`Index::stamp`].
    pub(super) fn close(&mut self, dir: &NetworkDir) {
        if let Source::Index(index) = std::mem::replace(&mut self.source, Source::Unopened) {
            // Without the stamp the next call scans: slower, not wrong.
            let _ = index.stamp(dir.fd());
        }
    }
}
