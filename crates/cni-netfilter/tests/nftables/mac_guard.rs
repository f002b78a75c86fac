//! The check of source addresses: what is in the rule set, and what goes with its owner.

use cni_netfilter::{MacGuard, MacGuardHint, Nftables};

use crate::inside::{elements, inside, owner, ruleset, run};

const TABLE: &str = "bridge cni_macspoof";

fn guard(id: &str, port: &str) -> MacGuard {
    MacGuard { owner: owner(id), port: port.parse().unwrap(), mac: "02:00:00:00:00:01".parse().unwrap() }
}

fn counts() -> [usize; 3] {
    ["guarded", "allowed", "owners"].map(|set| elements(TABLE, set).len())
}

#[test]
fn a_removal_finds_everything_of_the_owner_with_and_without_a_hint() {
    inside("mac_guard::a_removal_finds_everything_of_the_owner_with_and_without_a_hint", || {
        let nft = Nftables::open().unwrap();
        let (one, other) = (guard("c1", "veth1"), guard("c2", "veth2"));
        let (port, mac) = (Some(one.port.clone()), Some(one.mac));
        nft.add_mac_guard(&other).unwrap();
        for hint in [
            MacGuardHint::default(),
            MacGuardHint { port: port.clone(), mac: None },
            MacGuardHint { port: port.clone(), mac },
            MacGuardHint { port: Some(other.port.clone()), mac },
        ] {
            nft.add_mac_guard(&one).unwrap();
            nft.add_mac_guard(&one).unwrap();
            assert_eq!(nft.check_mac_guard(&one).unwrap(), []);
            assert_eq!(counts(), [2, 2, 2], "{}", ruleset());
            nft.remove_mac_guard(&one.owner, &hint).unwrap();
            assert_eq!(counts(), [1, 1, 1], "{hint:?}: {}", ruleset());
            nft.remove_mac_guard(&one.owner, &hint).unwrap();
            assert_eq!(nft.check_mac_guard(&other).unwrap(), [], "{hint:?}");
        }
        nft.retain_mac_guard(&other.owner.network, &[]).unwrap();
        assert_eq!(counts(), [0; 3], "{}", ruleset());
    });
}

#[test]
fn a_port_of_the_same_name_is_the_latest_owners() {
    inside("mac_guard::a_port_of_the_same_name_is_the_latest_owners", || {
        let nft = Nftables::open().unwrap();
        let (former, latest) = (guard("c1", "veth1"), guard("c2", "veth1"));
        nft.add_mac_guard(&former).unwrap();
        nft.add_mac_guard(&latest).unwrap();
        assert_eq!(nft.check_mac_guard(&latest).unwrap(), []);
        assert_eq!(counts(), [1; 3], "{}", ruleset());
        run(&format!("nft flush map {TABLE} owners"));
        let missing = nft.check_mac_guard(&latest).unwrap();
        assert!(missing.len() == 1 && missing[0].thing.contains("in the index of bridge cni_macspoof"), "{missing:?}");
        nft.add_mac_guard(&latest).unwrap();
        assert_eq!((nft.check_mac_guard(&latest).unwrap(), counts()), (Vec::new(), [1; 3]));
    });
}
