//! How the store knows what is taken: from the index while it counts, by walking when it doesn't.

use std::io;
use std::time::Duration;

use super::dir::NetworkDir;
use super::error::StoreError;
use super::holder::Holder;
use super::index::{Found, Index};
use super::reclaim;
use super::walked::Walked;
use super::{Knowledge, Store};
use crate::address::Address;
use crate::allocator;
use crate::range::{Range, RangeSet};

/// For so long a set is believed to be full without reading the files again.
const FULL_FOR: Duration = Duration::from_secs(60);

impl Store {
    /// The next free address of the set with this number: see [`allocator::next`].
    ///
    /// That there is none is believed of files that were read within the last minute: one may have been emptied in
    /// place since, which the directory's time doesn't tell.
    pub(crate) fn next<'s>(
        &mut self,
        set: &'s RangeSet,
        number: usize,
    ) -> Result<Option<(Address, &'s Range)>, StoreError> {
        let last = self.last_reserved(number);
        let found = allocator::next(set, last, self)?;
        match &self.knowledge {
            Knowledge::Index(index) if found.is_none() && index.is_older_than(FULL_FOR) => {
                self.rebuild()?;
                allocator::next(set, last, self)
            }
            _ => Ok(found),
        }
    }

    /// Makes sure that there is something to ask.
    ///
    /// To be called before the directory is changed, for a change makes the index look stale.
    pub(super) fn learn(&mut self) -> Result<(), StoreError> {
        if !matches!(self.knowledge, Knowledge::None) {
            return Ok(());
        }
        match Index::open(&self.place.data_dir, &self.place.network, self.dir.fd()) {
            Found::Valid(index) => self.knowledge = Knowledge::Index(index),
            Found::Stale { this_boot } => {
                let mut walked = Walked::walk(&self.dir)?;
                if self.place.reclaim_after_reboot && !this_boot {
                    reclaim::reclaim(&self.dir, &mut walked)?;
                }
                self.index(&walked);
                if matches!(self.knowledge, Knowledge::None) {
                    self.knowledge = Knowledge::Walked(walked);
                }
            }
        }
        Ok(())
    }

    /// Puts a question to the index; one that can't answer is thrown away, and the files answer.
    pub(super) fn ask<T>(
        &mut self,
        index: impl Fn(&Index) -> io::Result<T>,
        walked: impl Fn(&Walked) -> T,
    ) -> Result<T, StoreError> {
        self.learn()?;
        match &self.knowledge {
            Knowledge::Index(known) => match index(known) {
                Ok(answer) => Ok(answer),
                Err(_) => self.rebuild().map(|known| walked(&known)),
            },
            Knowledge::Walked(known) => Ok(walked(known)),
            Knowledge::None => Walked::walk(&self.dir).map(|known| walked(&known)),
        }
    }

    /// Walks and makes a new index, for the one there was is wrong. Returns what was found.
    pub(crate) fn rebuild(&mut self) -> Result<Walked, StoreError> {
        self.knowledge = Knowledge::None;
        Index::discard(&self.place.data_dir, &self.place.network);
        let walked = Walked::walk(&self.dir)?;
        self.index(&walked);
        Ok(walked)
    }

    /// Makes an index of what was walked, if that is possible.
    pub(super) fn index(&mut self, walked: &Walked) {
        let built = Index::build(&self.place.data_dir, &self.place.network, walked);
        self.knowledge = built.map_or(Knowledge::None, Knowledge::Index);
    }

    /// Writes to the directory; where the disk is full, once more with the room that the index had.
    pub(super) fn with_room<T>(
        &mut self,
        write: impl Fn(&NetworkDir) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match write(&self.dir) {
            Err(error) if error.is_full_disk() && matches!(self.knowledge, Knowledge::Index(_)) => {
                self.knowledge = Knowledge::Walked(Walked::walk(&self.dir)?);
                Index::discard(&self.place.data_dir, &self.place.network);
                write(&self.dir)
            }
            written => written,
        }
    }

    /// Notes what has just been reserved.
    pub(super) fn note_taken(&mut self, ip: Address, holder: Holder) -> Result<(), StoreError> {
        match &mut self.knowledge {
            Knowledge::Index(index) => {
                let key = holder.key().unwrap_or_default();
                if index.is_full() || index.insert(&key, ip).is_err() {
                    self.rebuild()?;
                }
            }
            Knowledge::Walked(walked) => drop(walked.taken.insert(ip, Some(holder))),
            Knowledge::None => {}
        }
        Ok(())
    }

    /// Notes what has just been released.
    pub(super) fn note_free(&mut self, ip: Address, holder: &Holder) -> Result<(), StoreError> {
        match &mut self.knowledge {
            Knowledge::Index(index) => {
                let key = holder.key().unwrap_or_default();
                if index.remove(&key, ip).is_err() {
                    self.rebuild()?;
                }
            }
            Knowledge::Walked(walked) => drop(walked.taken.remove(&ip)),
            Knowledge::None => {}
        }
        Ok(())
    }
}
