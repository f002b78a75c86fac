//! Additions and removals of the same owner at the same time.

use cni_netfilter::Nftables;

use crate::inside::{add_masquerade, forwards, inside, masquerade, owner, ruleset};

/// A runtime that has lost patience sends DEL while ADD is still at work.
#[test]
fn whoever_adds_and_removes_at_once_leaves_nothing_that_is_not_in_the_index() {
    inside("races::whoever_adds_and_removes_at_once_leaves_nothing_that_is_not_in_the_index", || {
        for round in 0..60_u16 {
            let port = |first: u16| format!("tcp {} 80", first + round % 2);
            let old = [forwards("c1", "10.1.0.2/24", &[&port(100)])];
            let new = [forwards("c1", "10.1.0.2/24", &[&port(200)])];
            let address = "10.1.0.2".parse().unwrap();
            Nftables::open().unwrap().add_ports(&old).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let nft = Nftables::open().unwrap();
                    nft.add_ports(&new).unwrap();
                    add_masquerade(&nft, &[masquerade("c1", "10.1.0.2", "10.1.0.0/24")]).unwrap();
                });
                for hints in [&old[..], &[]] {
                    scope.spawn(move || {
                        let nft = Nftables::open().unwrap();
                        nft.remove_ports(&owner("c1"), hints).unwrap();
                        nft.remove_masquerade(&owner("c1"), &[address]).unwrap();
                    });
                }
                scope.spawn(|| Nftables::open().unwrap().retain_ports(&owner("c1").network, &[]).unwrap());
            });
            let nft = Nftables::open().unwrap();
            nft.remove_ports(&owner("c1"), &[]).unwrap();
            nft.remove_masquerade(&owner("c1"), &[]).unwrap();
            assert!(!ruleset().contains("id: c1"), "round {round}: {}", ruleset());
        }
    });
}
