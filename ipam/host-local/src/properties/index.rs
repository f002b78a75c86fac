//! The cache beside the reservations: whatever is in it, the files decide.

use std::collections::BTreeMap;
use std::fs;

use super::{Network, ip, owner};
use crate::pool::Address;
use crate::pool::allocator::Taken;

/// `data` is a list of changes to an index that counts: two bytes say where, one how many, and they follow. Where
/// nothing follows, the file ends.
pub(super) fn holds(data: &[u8]) {
    let network = Network::new();
    let owners: Vec<_> = (0..4).map(|n| owner(&format!("c{n}"), "eth0")).collect();
    let held: BTreeMap<Address, usize> = (0..4).map(|n| (network.add(&owners[n]).unwrap(), n)).collect();
    let path = network.data_dir.path().join(".host-local/net");
    let index = changed(fs::read(&path).unwrap(), data);
    fs::write(&path, index).unwrap();

    // It may hide what an owner holds, but never gives it to another; `add` sees that no address is given twice.
    let before = network.files();
    for (n, owner) in owners.iter().enumerate() {
        let known = network.place.create().unwrap().held_by(owner, &[]).unwrap();
        assert!(known.iter().all(|ip| held.get(ip) == Some(&n)), "{owner:?}: {known:?}");
    }
    assert_eq!(network.files(), before);
    if let Some(ip) = network.add(&owner("new", "eth0")) {
        assert!(!held.contains_key(&ip));
    }
    // Where prevResult reports the address, DEL finds it.
    assert_eq!(network.del(&owners[0], &[ip(2)]), [ip(2)]);
    // GC makes it whole.
    network.place.create().unwrap().retain(&owners).unwrap();
    for (ip, n) in held.iter().skip(1) {
        assert_eq!(network.place.create().unwrap().held_by(&owners[*n], &[]).unwrap(), [*ip]);
    }
    assert_eq!(network.place.create().unwrap().next_free(ip(3), ip(14)).unwrap(), Some(ip(6)));
    assert_eq!(network.files().len(), 3);
}

fn changed(mut index: Vec<u8>, mut data: &[u8]) -> Vec<u8> {
    while let [high, low, length, rest @ ..] = data {
        let at = usize::from(u16::from_be_bytes([*high, *low])).min(index.len());
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        if bytes.is_empty() {
            index.truncate(at);
        }
        for (place, byte) in index[at..].iter_mut().zip(bytes) {
            *place = *byte;
        }
        data = rest;
    }
    index
}
