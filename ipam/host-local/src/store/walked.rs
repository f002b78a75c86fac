//! All reservations of a network, read file by file: the truth, at a cost that grows with their number.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::dir::{Entry, NetworkDir};
use super::error::StoreError;
use super::holder::Holder;
use crate::address::Address;

/// Every taken address and its holder; `None` is something in the way that nobody holds (a directory, a symbolic link).
pub(crate) type Walked = BTreeMap<Address, Option<Holder>>;

/// Reads the whole directory. Files that aren't named as an address in its usual form are none of our business; those
/// without a holder in them are left out.
pub(crate) fn walk(dir: &NetworkDir) -> Result<Walked, StoreError> {
    let mut walked = Walked::new();
    for name in dir.names()? {
        let Some(address) = address_of(&name) else { continue };
        match dir.read(&name)? {
            Entry::Absent => {}
            Entry::Other => drop(walked.insert(address, None)),
            Entry::File(content) => {
                if let Some(holder) = Holder::parse(&content) {
                    walked.insert(address, Some(holder));
                }
            }
        }
    }
    Ok(walked)
}

/// The address that a file of this name reserves.
fn address_of(name: &str) -> Option<Address> {
    let ip: IpAddr = name.parse().ok()?;
    (ip.to_string() == name).then(|| Address::from(ip))
}

/// The first address from `from` to `to` that isn't in `walked`.
pub(crate) fn next_free(walked: &Walked, from: Address, to: Address) -> Option<Address> {
    let mut free = from;
    for taken in walked.range(from..=to).map(|(taken, _)| *taken) {
        if taken != free {
            break;
        }
        free = free.after(1);
    }
    (free <= to).then_some(free)
}
