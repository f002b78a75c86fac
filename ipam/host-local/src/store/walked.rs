//! All reservations of a network, read file by file: the truth, at a cost that grows with their number.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cni_plugin::state::Entry;

use super::dir::NetworkDir;
use super::error::StoreError;
use super::holder::Holder;
use crate::address::Address;

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Every taken address and its holder; `None` is something in the way that nobody holds (a directory, a symbolic
    /// link).
    pub(crate) taken: BTreeMap<Address, Option<Holder>>,
    /// The addresses whose files hold nothing.
    pub(crate) vacant: Vec<Address>,
}

impl Walked {
    /// Reads the whole directory. Files that aren't named as an address in its usual form are none of our business.
    pub(crate) fn walk(dir: &NetworkDir) -> Result<Self, StoreError> {
        let mut walked = Self::default();
        for ip in dir.names()?.iter().filter_map(|name| address_of(name)) {
            match dir.read(&ip.to_string())? {
                Entry::Absent => {}
                Entry::Other => drop(walked.taken.insert(ip, None)),
                Entry::File(content) => match Holder::parse(&content) {
                    Some(holder) => drop(walked.taken.insert(ip, Some(holder))),
                    None => walked.vacant.push(ip),
                },
            }
        }
        Ok(walked)
    }

    /// The addresses whose holder is one of those meant.
    pub(crate) fn holdings(&self, meant: impl Fn(&Holder) -> bool) -> Vec<Address> {
        let held = self.taken.iter().filter(|(_, holder)| holder.as_ref().is_some_and(&meant));
        held.map(|(ip, _)| *ip).collect()
    }

    /// The first address from `from` to `to` that isn't taken.
    pub(crate) fn next_free(&self, from: Address, to: Address) -> Option<Address> {
        let mut free = from;
        for taken in self.taken.range(from..=to).map(|(taken, _)| *taken) {
            if taken != free {
                break;
            }
            free = free.after(1);
        }
        (free <= to).then_some(free)
    }
}

/// The address that a file of this name reserves.
fn address_of(name: &str) -> Option<Address> {
    let ip: IpAddr = name.parse().ok()?;
    (ip.to_string() == name).then(|| Address::from(ip))
}
