//! The reservations of a network on disk.
//!
//! ```text
//! <dataDir>/<network>/              mode 0755, as the Go plugin makes it
//!     10.0.0.2                      a reservation: "<container ID>\r\n<interface name>", without a line end
//!     last_reserved_ip.<set>        the address reserved last for the range set of this number; a hint
//!     lock                          flock(2) of this file is held while anything here is read or changed
//! <dataDir>/.host-local/<network>   the index
//! ```
//!
//! The network's directory is the Go plugin's format, byte for byte, and it is authoritative. An address is taken if its file
//! names a holder or has any other text (an administrator's note), or if anything but a regular file has its name. A file that is
//! empty, or whose writing broke off, holds nothing ([`Holder::parse`]).
//!
//! The index ([`index`]) makes the cost of a call independent of the number of reservations. It is a cache: stale as soon as
//! another program has changed the directory, and then made anew from a scan of all files ([`scan`]). It may be deleted at any time.

mod directory;
mod error;
mod holder;
mod index;
mod lookup;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use cni_plugin::Owner;
use cni_plugin::state::Entry;

pub(crate) use directory::Place;
pub(crate) use error::{FirstFailure, StoreError};
pub(crate) use holder::Holder;

use crate::pool::allocator::{self, Taken};
use crate::pool::{Address, Range, RangeSet};
use directory::NetworkDir;
use lookup::Lookup;
use scan::Scan;

/// How long a DEL that may have nothing to release waits for the lock before it looks without it.
const SOON: Duration = Duration::from_secs(1);

/// The reservations of a network, locked until dropped.
#[derive(Debug)]
pub(crate) struct Store {
    dir: NetworkDir,
    lookup: Lookup,
}

impl Place {
    /// Opens the reservations if there are any, waiting for the lock.
    pub(crate) fn open(&self) -> Result<Option<Store>, StoreError> {
        Ok(NetworkDir::open(self)?.map(|dir| Store::new(self, dir)))
    }

    /// As [`Place::open`], to release what `owner` holds: `None` also if another call keeps the lock and `owner` holds nothing.
    /// Then there is nothing to wait for, unless it is `owner`'s own ADD that has the lock.
    pub(crate) fn open_to_release(&self, owner: &Owner) -> Result<Option<Store>, StoreError> {
        match NetworkDir::open_within(SOON, self) {
            Err(StoreError::Busy(held)) if !held.is_by(&owner.container_id) && !self.has_any_of(owner)? => Ok(None),
            Err(StoreError::Busy(_)) => self.open(),
            opened => Ok(opened?.map(|dir| Store::new(self, dir))),
        }
    }

    /// Reads the files without the lock.
    fn has_any_of(&self, owner: &Owner) -> Result<bool, StoreError> {
        let Some(dir) = NetworkDir::look(self)? else { return Ok(false) };
        let held = Scan::of(&dir)?.holdings(|holder| holder.is(owner) || holder.is_container_of(owner));
        Ok(!held.is_empty())
    }

    /// Opens the reservations, creating the directory if need be, and waits for the lock.
    pub(crate) fn create(&self) -> Result<Store, StoreError> {
        Ok(Store::new(self, NetworkDir::create(self)?))
    }

    /// Fails if the directory of a network that has none yet could not be created. Leaves nothing behind.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        directory::probe_create(self)
    }

    /// Takes back those of these reservations that are still `owner`'s; past a failure, reporting the first.
    pub(crate) fn release(&self, owner: &Owner, ips: &[Address]) -> Result<(), StoreError> {
        if ips.is_empty() {
            return Ok(());
        }
        let Some(mut store) = self.open()? else { return Ok(()) };
        let mut failure = FirstFailure::default();
        for ip in ips {
            failure.note(store.release(*ip, |holder| holder.is(owner)));
        }
        failure.verdict()
    }
}

impl Store {
    fn new(place: &Place, dir: NetworkDir) -> Self {
        Self { dir, lookup: Lookup::new(place.clone()) }
    }

    /// The next free address of the set with this number: see [`allocator::next`].
    ///
    /// That there is none is believed of files that were read within the last minute only.
    pub(crate) fn next<'s>(
        &mut self,
        set: &'s RangeSet,
        number: usize,
    ) -> Result<Option<(Address, &'s Range)>, StoreError> {
        let last = self.last_reserved(number);
        let found = allocator::next(set, last, self)?;
        if found.is_none() && self.lookup.is_old() {
            self.rebuild()?;
            return allocator::next(set, last, self);
        }
        Ok(found)
    }

    /// The addresses that the owner holds, interface and all; or, only if there are none, those that its container
    /// holds without an interface. Those that are `reported` as the owner's are looked up in the files, whatever the index
    /// says.
    pub(crate) fn held_by(&mut self, owner: &Owner, reported: &[Address]) -> Result<Vec<Address>, StoreError> {
        let held = self.looked_up(owner)?;
        for ip in reported.iter().filter(|ip| !held.contains(ip)) {
            let meant = |holder: Holder| holder.is(owner) || held.is_empty() && holder.is_container_of(owner);
            if self.holder(*ip)?.is_some_and(meant) {
                // The file was overwritten in place, which the directory's time doesn't tell; there may be more of them.
                self.rebuild()?;
                return self.looked_up(owner);
            }
        }
        Ok(held)
    }

    fn looked_up(&mut self, owner: &Owner) -> Result<Vec<Address>, StoreError> {
        let own = self.holdings(&Holder::of(owner).0)?;
        if own.is_empty() { self.holdings(&Holder::Container(owner.container_id.clone())) } else { Ok(own) }
    }

    fn holdings(&mut self, holder: &Holder) -> Result<Vec<Address>, StoreError> {
        let held = self.lookup.holdings(&self.dir, holder)?;
        for ip in &held {
            if self.holder(*ip)?.as_ref() != Some(holder) {
                // The file was overwritten in place, which the directory's time doesn't tell.
                let scan = self.rebuild()?;
                return Ok(scan.holdings(|found| found == holder));
            }
        }
        Ok(held)
    }

    /// Makes a new index of the files, because the present one is wrong. Returns what the files say.
    pub(crate) fn rebuild(&mut self) -> Result<Scan, StoreError> {
        self.lookup.rebuild(&self.dir)
    }

    /// Who holds the address.
    pub(crate) fn holder(&self, ip: Address) -> Result<Option<Holder>, StoreError> {
        match self.dir.read(&ip.to_string())? {
            Entry::Absent | Entry::Other => Ok(None),
            Entry::File(content) => Ok(Holder::parse(&content)),
        }
    }

    /// Reserves the address for the owner. Not idempotent.
    ///
    /// # Errors
    /// [`StoreError::Held`] or [`StoreError::Blocked`] if it is taken, also if the owner holds it.
    pub(crate) fn reserve(&mut self, ip: Address, owner: &Owner) -> Result<(), StoreError> {
        let name = ip.to_string();
        let (holder, content) = Holder::of(owner);
        self.lookup.open(&self.dir)?;
        // A second time where a file that holds nothing had the name.
        for _ in 0..2 {
            if self.lookup.with_room(&self.dir, |dir| dir.create_file(&name, &content))? {
                return self.lookup.insert(&self.dir, ip, holder);
            }
            match self.dir.read(&name)? {
                Entry::Absent => {}
                Entry::Other => break,
                Entry::File(content) => match Holder::parse(&content) {
                    Some(holder) => return Err(StoreError::Held { ip: ip.into(), holder }),
                    None => drop(self.dir.remove(&name)?),
                },
            }
        }
        Err(StoreError::Blocked { ip: ip.into(), path: self.dir.path_of(&name) })
    }

    /// Releases the address if its holder is the one meant; true if it was.
    pub(crate) fn release(&mut self, ip: Address, meant: impl Fn(&Holder) -> bool) -> Result<bool, StoreError> {
        let Some(holder) = self.holder(ip)?.filter(|holder| meant(holder)) else { return Ok(false) };
        self.lookup.open(&self.dir)?;
        let removed = self.dir.remove(&ip.to_string())?;
        self.lookup.remove(&self.dir, ip, &holder)?;
        Ok(removed)
    }

    /// Releases everything whose holder isn't in `valid`, and removes the files of addresses that hold nothing. A
    /// reservation without an interface stays while any interface of its container is valid; a note stays. Idempotent.
    ///
    /// One pass; goes on past what it can't remove, and reports the first such failure at the end.
    pub(crate) fn retain(&mut self, valid: &[Owner]) -> Result<(), StoreError> {
        let attachments: BTreeSet<_> = valid.iter().map(|owner| (&owner.container_id, &owner.ifname)).collect();
        let containers: BTreeSet<_> = valid.iter().map(|owner| &owner.container_id).collect();
        let mut scan = Scan::of(&self.dir)?;
        let mut failure = FirstFailure::default();
        let mut removed = |ip: &Address| failure.note(self.dir.remove(&ip.to_string()));
        scan.taken.retain(|ip, holder| match holder {
            Some(Holder::Attachment(id, ifname)) => attachments.contains(&(&*id, &*ifname)) || !removed(ip),
            Some(Holder::Container(id)) => containers.contains(&*id) || !removed(ip),
            Some(Holder::Note(_)) | None => true,
        });
        scan.vacant.retain(|ip| !removed(ip));
        self.lookup.replace_index(&scan);
        failure.verdict()
    }

    /// The address reserved last for this set, by this or the Go plugin; a hint.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<Address> {
        match self.dir.read(&last_reserved_name(set)) {
            Ok(Entry::File(content)) => cni_plugin::addr::parse_ip(std::str::from_utf8(&content).ok()?).map(Into::into),
            _ => None,
        }
    }

    /// Remembers the address reserved last for this set. Where that can't be written, an address may be given again soon after
    /// it was released, which is no reason to give none: the failure goes to stderr.
    pub(crate) fn set_last_reserved(&mut self, set: usize, ip: Address) {
        let written = self.lookup.with_room(&self.dir, |dir| dir.overwrite(&last_reserved_name(set), &ip.to_string()));
        if let Err(error) = written {
            eprintln!("{error}: until it can be written, addresses are assigned again right after their release");
        }
    }

    /// Fails if no reservation could be written. Changes nothing.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        self.dir.probe()
    }
}

impl Taken for Store {
    type Error = StoreError;

    fn next_free(&mut self, from: Address, to: Address) -> Result<Option<Address>, StoreError> {
        self.lookup.next_free(&self.dir, from, to)
    }
}

/// Leaves the index valid for the next call.
impl Drop for Store {
    fn drop(&mut self) {
        self.lookup.close(&self.dir);
    }
}

fn last_reserved_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}
