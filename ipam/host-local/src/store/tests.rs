//! The store on a real directory, against a model of it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::lookup::Source;
use super::*;
use crate::config::RangeKeys;
use crate::pool::RangeSet;
use crate::pool::allocator;

fn set(subnet: &str) -> RangeSet {
    RangeSet::resolve(&[RangeKeys { subnet: subnet.into(), ..RangeKeys::default() }]).unwrap()
}

fn place(data_dir: &TempDir) -> Place {
    Place { data_dir: data_dir.path().into(), network: "net".parse().unwrap(), reclaim_after_reboot: false }
}

fn owner(n: u8) -> Owner {
    Owner {
        network: "net".parse().unwrap(),
        container_id: format!("c{}", n / 2).parse().unwrap(),
        ifname: format!("eth{}", n % 2).parse().unwrap(),
    }
}

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn add(place: &Place, set: &RangeSet, owner: &Owner) -> Option<Address> {
    let mut store = place.create().unwrap();
    let last = store.last_reserved(0);
    let (ip, _) = allocator::next(set, last, &mut store).unwrap()?;
    store.reserve(ip, owner).unwrap();
    store.set_last_reserved(0, ip);
    Some(ip)
}

fn file(place: &Place, name: &str) -> PathBuf {
    place.data_dir.join("net").join(name)
}

/// True if the next call needs no scan.
fn index_is_valid(place: &Place) -> bool {
    let mut store = place.open().unwrap().unwrap();
    let found = index::Index::open(place, store.dir.fd());
    store.lookup.source = Source::Unopened;
    matches!(found, index::Found::Valid(_))
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    Gc(Vec<u8>),
    /// An ADD that is killed before the index is written.
    KilledAdd(u8),
    /// A reservation that another program makes.
    Foreign(u8, u8),
    /// A file removed by hand.
    Removed(u8),
    /// A file left empty.
    Emptied(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let owner = 0u8..12;
    let host = 2u8..15;
    prop_oneof![
        6 => owner.clone().prop_map(Step::Add),
        4 => owner.clone().prop_map(Step::Del),
        1 => vec(owner.clone(), 0..12).prop_map(Step::Gc),
        1 => owner.clone().prop_map(Step::KilledAdd),
        1 => (owner, host.clone()).prop_map(|(owner, host)| Step::Foreign(owner, host)),
        1 => host.clone().prop_map(Step::Removed),
        1 => host.prop_map(Step::Emptied),
    ]
}

type Model = BTreeMap<Address, Owner>;

fn apply(place: &Place, set: &RangeSet, model: &mut Model, step: Step) {
    let host = |host: u8| ip(&format!("10.0.0.{host}"));
    match step {
        Step::Add(n) => match add(place, set, &owner(n)) {
            Some(ip) => assert_eq!(model.insert(ip, owner(n)), None, "{ip} was handed out twice"),
            None => assert_eq!(model.len() as u128, set.size(), "full only when it is"),
        },
        Step::Del(n) => {
            let mut store = place.create().unwrap();
            for ip in store.held_by(&owner(n), &[]).unwrap() {
                assert!(store.release(ip, |holder| holder.is(&owner(n))).unwrap());
            }
            model.retain(|_, held_by| *held_by != owner(n));
        }
        Step::Gc(valid) => {
            let valid: Vec<Owner> = valid.into_iter().map(owner).collect();
            place.create().unwrap().retain(&valid).unwrap();
            model.retain(|_, held_by| valid.contains(held_by));
        }
        Step::KilledAdd(n) => {
            let mut store = place.create().unwrap();
            if let Some((ip, _)) = allocator::next(set, None, &mut store).unwrap() {
                store.reserve(ip, &owner(n)).unwrap();
                model.insert(ip, owner(n));
            }
            store.lookup.source = Source::Unopened;
        }
        Step::Foreign(n, address) => {
            drop(place.create().unwrap());
            model.entry(host(address)).or_insert_with(|| {
                // What is written into a file that exists doesn't change the directory; no plugin does that.
                let _ = fs::remove_file(file(place, &host(address).to_string()));
                fs::write(file(place, &host(address).to_string()), Holder::of(&owner(n)).1).unwrap();
                owner(n)
            });
        }
        Step::Removed(address) => {
            let _ = fs::remove_file(file(place, &host(address).to_string()));
            model.remove(&host(address));
        }
        Step::Emptied(address) => {
            drop(place.create().unwrap());
            if !model.contains_key(&host(address)) {
                fs::write(file(place, &host(address).to_string()), "").unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the directory, the store says what is in it, and never hands an address out twice.
    #[test]
    fn the_store_says_what_is_on_disk(steps in vec(step(), 1..60)) {
        let data_dir = tempfile::tempdir().unwrap();
        let (place, set, mut model) = (place(&data_dir), set("10.0.0.0/28"), Model::new());
        for step in steps {
            apply(&place, &set, &mut model, step);
            let mut store = place.create().unwrap();
            for n in 0..12 {
                let held: Vec<Address> = model.iter().filter(|(_, by)| **by == owner(n)).map(|(ip, _)| *ip).collect();
                let mut found = store.held_by(&owner(n), &[]).unwrap();
                found.sort_unstable();
                prop_assert_eq!(found, held);
            }
            let (first, last) = (ip("10.0.0.2"), ip("10.0.0.14"));
            let free = (2..15).map(|n| ip(&format!("10.0.0.{n}"))).find(|ip| !model.contains_key(ip));
            prop_assert_eq!(store.next_free(first, last).unwrap(), free);
            drop(store);
            prop_assert!(index_is_valid(&place));
        }
    }

    /// Arbitrary bytes in the index, and in a reservation, cost time and nothing else.
    #[test]
    fn damaged_state_is_survived(index in vec(any::<u8>(), 0..3000), content in vec(any::<u8>(), 0..60), keep in 0usize..200) {
        let data_dir = tempfile::tempdir().unwrap();
        let (place, set) = (place(&data_dir), set("10.0.0.0/28"));
        let first = add(&place, &set, &owner(0)).unwrap();
        // The header up to `keep` stays, so that some damaged tables are believed in at first.
        let path = data_dir.path().join(".host-local/net");
        let mut bytes = fs::read(&path).unwrap();
        let end = (keep + index.len()).min(bytes.len());
        bytes[keep..end].copy_from_slice(&index[..end - keep]);
        fs::write(&path, bytes).unwrap();
        fs::write(file(&place, "10.0.0.9"), content).unwrap();
        if let Some(second) = add(&place, &set, &owner(2)) {
            prop_assert_ne!(first, second);
        }
        let mut store = place.create().unwrap();
        store.rebuild().unwrap();
        prop_assert_eq!(store.held_by(&owner(0), &[]).unwrap(), vec![first]);
    }
}

#[test]
fn an_index_that_is_left_behind_is_noticed() {
    let data_dir = tempfile::tempdir().unwrap();
    let (place, set) = (place(&data_dir), set("10.0.0.0/28"));
    add(&place, &set, &owner(0)).unwrap();
    assert!(index_is_valid(&place));
    fs::copy(file(&place, "10.0.0.2"), file(&place, "10.0.0.7")).unwrap();
    assert!(!index_is_valid(&place));
    assert_eq!(place.open().unwrap().unwrap().held_by(&owner(0), &[]).unwrap(), [ip("10.0.0.2"), ip("10.0.0.7")]);
    assert!(index_is_valid(&place));
}

#[test]
fn many_owners_and_many_addresses_of_one_owner_make_the_index_grow() {
    let data_dir = tempfile::tempdir().unwrap();
    let (place, set) = (place(&data_dir), set("10.0.0.0/16"));
    for _ in 0..700 {
        add(&place, &set, &owner(0)).unwrap();
    }
    assert!(index_is_valid(&place));
    let mut store = place.create().unwrap();
    assert_eq!(store.held_by(&owner(0), &[]).unwrap().len(), 700);
    for ip in store.held_by(&owner(0), &[]).unwrap() {
        assert!(store.release(ip, |holder| holder.is(&owner(0))).unwrap());
    }
    assert!(store.held_by(&owner(0), &[]).unwrap().is_empty());
}

#[test]
fn what_is_no_file_is_never_followed_nor_handed_out() {
    let data_dir = tempfile::tempdir().unwrap();
    let place = place(&data_dir);
    drop(place.create().unwrap());
    let outside = data_dir.path().join("outside");
    fs::write(&outside, Holder::of(&owner(0)).1).unwrap();
    symlink(&outside, file(&place, "10.0.0.2")).unwrap();
    fs::create_dir(file(&place, "10.0.0.3")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        file(&place, "10.0.0.4"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    symlink(&outside, file(&place, "last_reserved_ip.0")).unwrap();
    assert_eq!(place.open().unwrap().unwrap().held_by(&owner(0), &[]).unwrap(), []);
    let mut store = place.create().unwrap();
    assert_eq!(store.next_free(ip("10.0.0.2"), ip("10.0.0.6")).unwrap(), Some(ip("10.0.0.5")));
    for taken in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] {
        assert!(matches!(store.reserve(ip(taken), &owner(1)), Err(StoreError::Blocked { .. })), "{taken}");
    }
    assert_eq!(store.last_reserved(0), None);
    store.set_last_reserved(0, ip("10.0.0.5"));
    assert_eq!(store.last_reserved(0), Some(ip("10.0.0.5")), "a hint takes the link's place");
    drop(store);
    place.open().unwrap().unwrap().retain(&[]).unwrap();
    assert_eq!(fs::read_to_string(outside).unwrap(), "c0\r\neth0");
}

#[test]
fn a_linked_network_directory_or_lock_is_refused() {
    let data_dir = tempfile::tempdir().unwrap();
    let place = place(&data_dir);
    fs::create_dir(data_dir.path().join("elsewhere")).unwrap();
    symlink("elsewhere", data_dir.path().join("net")).unwrap();
    assert!(matches!(place.create(), Err(StoreError::OpenDir { .. })));
    fs::remove_file(data_dir.path().join("net")).unwrap();
    fs::create_dir(data_dir.path().join("net")).unwrap();
    symlink("../elsewhere/planted", file(&place, "lock")).unwrap();
    assert!(matches!(place.create(), Err(StoreError::Lock { .. })));
    assert!(!data_dir.path().join("elsewhere/planted").exists());
}

#[test]
fn only_reservations_of_an_earlier_boot_are_reclaimed_and_only_once() {
    let data_dir = tempfile::tempdir().unwrap();
    let (mut place, set) = (place(&data_dir), set("10.0.0.0/28"));
    let age = |name: &str| {
        let file = fs::File::options().write(true).open(file(&place, name)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    };
    for n in 0..3 {
        add(&place, &set, &owner(n)).unwrap();
    }
    fs::write(file(&place, "10.0.0.9"), "kept for the printer").unwrap();
    for old in ["10.0.0.2", "10.0.0.3", "10.0.0.9"] {
        age(old);
    }
    let holdings = |place: &Place| place.open().unwrap().unwrap().dir.names().unwrap();
    // Off by default, whatever the index says.
    fs::remove_file(data_dir.path().join(".host-local/net")).unwrap();
    assert_eq!(place.open().unwrap().unwrap().held_by(&owner(0), &[]).unwrap().len(), 1);
    // On, but this boot has been seen already.
    place.reclaim_after_reboot = true;
    assert_eq!(place.open().unwrap().unwrap().held_by(&owner(0), &[]).unwrap().len(), 1);
    // On, and no sign of this boot.
    fs::remove_file(data_dir.path().join(".host-local/net")).unwrap();
    assert_eq!(place.open().unwrap().unwrap().held_by(&owner(0), &[]).unwrap().len(), 0);
    let mut left = holdings(&place);
    left.retain(|name| name.starts_with("10."));
    left.sort();
    assert_eq!(left, ["10.0.0.4", "10.0.0.9"]);
}
