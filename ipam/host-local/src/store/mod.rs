//! The reservations of a network on disk, in the Go plugin's format: `<dataDir>/<network>/<address>`, each with its
//! holder in it, and `last_reserved_ip.<set>` beside them.

mod dir;
mod error;
mod holder;
mod index;
mod know;
mod reclaim;
#[cfg(test)]
mod tests;
mod walked;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use cni_plugin::state::Entry;
use cni_plugin::{NetworkName, Owner};

pub(crate) use error::{FirstFailure, StoreError};
pub(crate) use holder::Holder;

use crate::address::Address;
use crate::allocator::Taken;
use dir::NetworkDir;
use index::Index;
use walked::Walked;

/// How long a lock is usually waited for at most.
const SOON: Duration = Duration::from_secs(1);

/// Where the reservations of a network are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) network: NetworkName,
    /// Give up what was reserved before the node's last start.
    pub(crate) reclaim_after_reboot: bool,
}

/// The reservations of a network, locked until dropped.
#[derive(Debug)]
pub(crate) struct Store {
    dir: NetworkDir,
    place: Place,
    knowledge: Knowledge,
}

/// Where answers come from.
#[derive(Debug)]
enum Knowledge {
    /// Nothing has been asked yet.
    None,
    Index(Index),
    /// There can be no index: a full disk, a read-only one.
    Walked(Walked),
}

impl Place {
    /// Opens the reservations if there are any, waiting for the lock.
    pub(crate) fn open(&self) -> Result<Option<Store>, StoreError> {
        Ok(NetworkDir::open(&self.data_dir, &self.network)?.map(|dir| Store::new(self, dir)))
    }

    /// As [`Place::open`], to release what `owner` holds: `None` also if the lock isn't to be had soon and `owner` holds
    /// nothing. Then there is nothing to wait for, unless it is `owner`'s own ADD that has the lock.
    pub(crate) fn open_to_release(&self, owner: &Owner) -> Result<Option<Store>, StoreError> {
        match NetworkDir::open_within(SOON, &self.data_dir, &self.network) {
            Err(StoreError::Busy(held)) if !held.is_by(&owner.container_id) && !self.has_any_of(owner)? => Ok(None),
            Err(StoreError::Busy(_)) => self.open(),
            opened => Ok(opened?.map(|dir| Store::new(self, dir))),
        }
    }

    /// Reads the files without the lock.
    fn has_any_of(&self, owner: &Owner) -> Result<bool, StoreError> {
        let Some(dir) = NetworkDir::look(&self.data_dir, &self.network)? else { return Ok(false) };
        let held = Walked::walk(&dir)?.holdings(|holder| holder.is(owner) || holder.is_legacy_of(owner));
        Ok(!held.is_empty())
    }

    /// Opens the reservations, creating the directory if need be, and waits for the lock.
    pub(crate) fn create(&self) -> Result<Store, StoreError> {
        Ok(Store::new(self, NetworkDir::create(&self.data_dir, &self.network)?))
    }

    /// Fails if the directory of a network that has none yet could not be created. Leaves nothing behind.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        dir::probe_create(&self.data_dir, &self.network)
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
        Self { dir, place: place.clone(), knowledge: Knowledge::None }
    }

    /// The addresses that the owner holds, interface and all; or, only if there are none, those that its container
    /// holds without an interface. What the owner is `told` to hold is looked up in the files, whatever the index says.
    pub(crate) fn held_by(&mut self, owner: &Owner, told: &[Address]) -> Result<Vec<Address>, StoreError> {
        let held = self.known_of(owner)?;
        for ip in told.iter().filter(|ip| !held.contains(ip)) {
            let meant = |holder: Holder| holder.is(owner) || held.is_empty() && holder.is_legacy_of(owner);
            if self.holder(*ip)?.is_some_and(meant) {
                // Written in place, which the directory's time doesn't tell; there may be more.
                self.rebuild()?;
                return self.known_of(owner);
            }
        }
        Ok(held)
    }

    fn known_of(&mut self, owner: &Owner) -> Result<Vec<Address>, StoreError> {
        let own = self.held(&Holder::of(owner).0)?;
        if own.is_empty() { self.held(&Holder::Container(owner.container_id.clone())) } else { Ok(own) }
    }

    fn held(&mut self, meant: &Holder) -> Result<Vec<Address>, StoreError> {
        let key = meant.key().unwrap_or_default();
        let held = self.ask(|index| index.holdings(&key), |walked| walked.holdings(|holder| holder == meant))?;
        for ip in &held {
            if self.holder(*ip)?.as_ref() != Some(meant) {
                // A file was overwritten in place, which the directory's time doesn't tell.
                let walked = self.rebuild()?;
                return Ok(walked.holdings(|holder| holder == meant));
            }
        }
        Ok(held)
    }

    /// Who holds the address.
    pub(crate) fn holder(&self, ip: Address) -> Result<Option<Holder>, StoreError> {
        match self.dir.read(&ip.to_string())? {
            Entry::Absent | Entry::Other => Ok(None),
            Entry::File(content) => Ok(Holder::parse(&content)),
        }
    }

    /// Reserves the address for the owner. Fails with [`StoreError::Held`] or [`StoreError::Blocked`] if it is taken,
    /// by whomever: also by the owner.
    pub(crate) fn reserve(&mut self, ip: Address, owner: &Owner) -> Result<(), StoreError> {
        let name = ip.to_string();
        let (holder, content) = Holder::of(owner);
        self.learn()?;
        // Twice: a file that holds nothing is in the way once.
        for _ in 0..2 {
            if self.with_room(|dir| dir.create_file(&name, &content))? {
                return self.note_taken(ip, holder);
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
        self.learn()?;
        let removed = self.dir.remove(&ip.to_string())?;
        self.note_free(ip, &holder)?;
        Ok(removed)
    }

    /// Releases everything whose holder isn't in `valid`, and removes the files of addresses that hold nothing. A
    /// reservation without an interface stays while any interface of its container is valid; a note stays.
    ///
    /// One pass; goes on past what it can't remove, and reports the first such failure at the end.
    pub(crate) fn retain(&mut self, valid: &[Owner]) -> Result<(), StoreError> {
        let attachments: BTreeSet<_> = valid.iter().map(|owner| (&owner.container_id, &owner.ifname)).collect();
        let containers: BTreeSet<_> = valid.iter().map(|owner| &owner.container_id).collect();
        let mut walked = Walked::walk(&self.dir)?;
        let mut failure = FirstFailure::default();
        let mut removed = |ip: &Address| failure.note(self.dir.remove(&ip.to_string()));
        walked.taken.retain(|ip, holder| match holder {
            Some(Holder::Attachment(id, ifname)) => attachments.contains(&(&*id, &*ifname)) || !removed(ip),
            Some(Holder::Container(id)) => containers.contains(&*id) || !removed(ip),
            Some(Holder::Note(_)) | None => true,
        });
        walked.vacant.retain(|ip| !removed(ip));
        self.index(&walked);
        failure.verdict()
    }

    /// The address reserved last for this set, by whichever plugin; a hint.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<Address> {
        match self.dir.read(&last_reserved_name(set)) {
            Ok(Entry::File(content)) => cni_plugin::addr::parse_ip(std::str::from_utf8(&content).ok()?).map(Into::into),
            _ => None,
        }
    }

    /// Remembers the address reserved last for this set. Where that can't be written, an address may be given again soon after
    /// it was released, which is no reason to give none: the failure goes to stderr.
    pub(crate) fn set_last_reserved(&mut self, set: usize, ip: Address) {
        let written = self.with_room(|dir| dir.overwrite(&last_reserved_name(set), &ip.to_string()));
        if let Err(error) = written {
            eprintln!("{error}: until it can be written, addresses are given again right after their release");
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
        self.ask(|index| index.next_free(from, to), |walked| walked.next_free(from, to))
    }
}

/// Leaves the index so that it counts, if there is one and it is whole: [`Index::stamp`].
impl Drop for Store {
    fn drop(&mut self) {
        if let Knowledge::Index(index) = std::mem::replace(&mut self.knowledge, Knowledge::None) {
            // Without the stamp the next call walks: slower, not wrong.
            let _ = index.stamp(self.dir.fd());
        }
    }
}

fn last_reserved_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}
