//! The reservations of a network on disk, in the Go plugin's format: `<dataDir>/<network>/<address>`, each with its
//! holder in it, and `last_reserved_ip.<set>` beside them.

mod dir;
mod error;
mod holder;
mod walked;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cni_plugin::{NetworkName, Owner};

pub(crate) use error::StoreError;
pub(crate) use holder::Holder;

use crate::address::Address;
use crate::allocator::Taken;
use dir::{Entry, NetworkDir};
use walked::Walked;

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
    walked: Walked,
}

impl Place {
    /// Opens the reservations if there are any, waiting for the lock.
    pub(crate) fn open(&self) -> Result<Option<Store>, StoreError> {
        NetworkDir::open(&self.data_dir, &self.network)?.map(Store::new).transpose()
    }

    /// Opens the reservations, creating the directory if need be, and waits for the lock.
    pub(crate) fn create(&self) -> Result<Store, StoreError> {
        Store::new(NetworkDir::create(&self.data_dir, &self.network)?)
    }

    /// Fails if the directory of a network that has none yet could not be created. Changes nothing.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        let existing = self.data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        dir::writable(if existing.as_os_str().is_empty() { Path::new(".") } else { existing })
    }

    /// Takes back one reservation, if it is still `owner`'s.
    pub(crate) fn release(&self, owner: &Owner, ip: Address) -> Result<(), StoreError> {
        match self.open()? {
            Some(mut store) => store.release(ip, |holder| holder.is(owner)).map(drop),
            None => Ok(()),
        }
    }
}

impl Store {
    fn new(dir: NetworkDir) -> Result<Self, StoreError> {
        let walked = walked::walk(&dir)?;
        Ok(Self { dir, walked })
    }

    /// The addresses that the owner holds, interface and all; or, only if there are none, those that its container
    /// holds without an interface.
    pub(crate) fn held_by(&mut self, owner: &Owner) -> Result<Vec<Address>, StoreError> {
        let by = |is: &dyn Fn(&Holder) -> bool| -> Vec<Address> {
            self.walked.iter().filter(|(_, holder)| holder.as_ref().is_some_and(is)).map(|(ip, _)| *ip).collect()
        };
        let own = by(&|holder| holder.is(owner));
        Ok(if own.is_empty() { by(&|holder| holder.is_legacy_of(owner)) } else { own })
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
        let content = Holder::content(owner);
        // Twice: a file that holds nothing is in the way once.
        for _ in 0..2 {
            if self.dir.create_file(&name, &content)? {
                let holder = Holder::Attachment(owner.container_id.clone(), owner.ifname.clone());
                self.walked.insert(ip, Some(holder));
                return Ok(());
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
        if !self.holder(ip)?.is_some_and(|holder| meant(&holder)) {
            return Ok(false);
        }
        let removed = self.dir.remove(&ip.to_string())?;
        self.walked.remove(&ip);
        Ok(removed)
    }

    /// Releases everything whose holder isn't in `valid`, and removes the files of addresses that hold nothing. A
    /// reservation without an interface stays while any interface of its container is valid; a note stays.
    ///
    /// One pass; goes on past what it can't remove, and reports the first such failure at the end.
    pub(crate) fn retain(&mut self, valid: &[Owner]) -> Result<(), StoreError> {
        let attachments: BTreeSet<_> = valid.iter().map(|owner| (&owner.container_id, &owner.ifname)).collect();
        let containers: BTreeSet<_> = valid.iter().map(|owner| &owner.container_id).collect();
        let mut first_failure = Ok(());
        for (ip, holder) in std::mem::take(&mut self.walked) {
            let stays = match &holder {
                Some(Holder::Attachment(id, ifname)) => attachments.contains(&(id, ifname)),
                Some(Holder::Container(id)) => containers.contains(id),
                Some(Holder::Note(_)) | None => true,
            };
            if stays {
                self.walked.insert(ip, holder);
            } else if let Err(error) = self.dir.remove(&ip.to_string()) {
                first_failure = first_failure.and(Err(error));
            }
        }
        first_failure
    }

    /// The address reserved last for this set, by whichever plugin; a hint.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<Address> {
        match self.dir.read(&last_reserved_name(set)) {
            Ok(Entry::File(content)) => cni_plugin::addr::parse_ip(std::str::from_utf8(&content).ok()?).map(Into::into),
            _ => None,
        }
    }

    /// Remembers the address reserved last for this set.
    pub(crate) fn set_last_reserved(&mut self, set: usize, ip: Address) -> Result<(), StoreError> {
        self.dir.overwrite(&last_reserved_name(set), &ip.to_string())
    }

    /// Ends the work on the reservations.
    pub(crate) fn finish(self) {}

    /// Fails if no reservation could be written. Changes nothing.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        self.dir.probe()
    }
}

impl Taken for Store {
    type Error = StoreError;

    fn next_free(&mut self, from: Address, to: Address) -> Result<Option<Address>, StoreError> {
        Ok(walked::next_free(&self.walked, from, to))
    }
}

fn last_reserved_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}
