//! All reservations of a network, read file by file: what holds, at a cost that grows with their number.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cni_plugin::state::Entry;

use super::directory::NetworkDir;
use super::error::{FirstFailure, StoreError};
use super::holder::Holder;
use crate::pool::Address;

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Every taken address and its holder; `None` is an obstacle without a holder (a directory, a symbolic link).
    pub(crate) taken: BTreeMap<Address, Option<Holder>>,
    /// The addresses whose files hold nothing.
    pub(crate) vacant: Vec<Address>,
}

impl Scan {
    /// Reads the whole directory. Files whose name isn't an address as Go writes it are passed over.
    pub(crate) fn of(dir: &NetworkDir) -> Result<Self, StoreError> {
        let mut scan = Self::default();
        for ip in dir.names()?.iter().filter_map(|name| address_of(name)) {
            match dir.read(&ip.to_string())? {
                Entry::Absent => {}
                Entry::Other => drop(scan.taken.insert(ip, None)),
                Entry::File(content) => match Holder::parse(&content) {
                    Some(holder) => drop(scan.taken.insert(ip, Some(holder))),
                    None => scan.vacant.push(ip),
                },
            }
        }
        Ok(scan)
    }

    /// Removes the reservations that were made before the node started: their containers can't exist any more. Notes and
    /// obstacles stay.
    ///
    /// To be called once in a boot, before the first reservation in it: a clock that was wrong when the node came up and is
    /// set later would make early reservations of this boot look old.
    pub(super) fn reclaim_earlier_boots(&mut self, dir: &NetworkDir) -> Result<(), StoreError> {
        let Some(started) = boot_time() else { return Ok(()) };
        let old = |ip: &str| dir.modified(ip).is_some_and(|modified| modified < started);
        let mut failure = FirstFailure::default();
        self.taken.retain(|ip, holder| {
            let name = ip.to_string();
            let reserved = holder.as_ref().is_some_and(|holder| holder.key().is_some());
            !(reserved && old(&name) && failure.note(dir.remove(&name)))
        });
        failure.verdict()
    }

    /// The addresses whose holder fulfils `meant`.
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

/// When the node started, in seconds of the epoch (proc(5), `btime`).
fn boot_time() -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The address that a file of this name reserves.
fn address_of(name: &str) -> Option<Address> {
    let ip: IpAddr = name.parse().ok()?;
    (ip.to_string() == name).then(|| Address::from(ip))
}
