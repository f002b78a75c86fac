//! The index of owners: complete after each addition and removal.

use cni_netfilter::Nftables;

use crate::inside::{elements, forwards, inside, masquerade, owner, port_count, ruleset, run};

#[test]
fn the_latest_addition_says_what_the_ports_are() {
    inside("index::the_latest_addition_says_what_the_ports_are", || {
        let nft = Nftables::open().unwrap();
        nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp 1 80", "tcp 2 80", "udp 10.9.9.9:3 80"])]).unwrap();
        nft.add_ports(&[forwards("c2", "10.1.0.3/24", &["tcp 9 80"])]).unwrap();
        let less = [forwards("c1", "10.1.0.2/24", &["tcp 2 81"])];
        nft.add_ports(&less).unwrap();
        assert_eq!((port_count(), elements("ip cni_ports", "address_ports").len()), (2, 0), "{}", ruleset());
        assert_eq!(elements("ip cni_ports", "sources").len(), 2, "{}", ruleset());
        assert_eq!(nft.check_ports(&less).unwrap(), []);
        assert_eq!(elements("ip cni_ports", "owners").len(), 2);
    });
}

#[test]
fn incomplete_hints_are_completed() {
    inside("index::incomplete_hints_are_completed", || {
        let nft = Nftables::open().unwrap();
        let all =
            [forwards("c1", "10.1.0.2/24", &["tcp 1 80", "tcp 2 80"]), forwards("c1", "fd00::2/64", &["udp 5 5"])];
        let some = [forwards("c1", "10.1.0.2/24", &["tcp 1 80"])];
        for hints in [&some[..], &all, &[]] {
            nft.add_ports(&all).unwrap();
            let mut withdrawn = nft.remove_ports(&owner("c1"), hints).unwrap();
            assert!(!ruleset().contains("id: c1"), "{}", ruleset());
            let mut expected: Vec<_> = all.iter().flat_map(|forwards| forwards.ports.clone()).collect();
            withdrawn.sort();
            expected.sort();
            assert_eq!(withdrawn, expected);
        }
        nft.add_masquerade(&[masquerade("c1", "10.1.0.2", "10.1.0.0/24"), masquerade("c1", "10.1.0.3", "10.1.0.0/24")])
            .unwrap();
        nft.remove_masquerade(&owner("c1"), &["10.1.0.2".parse().unwrap()]).unwrap();
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
    });
}

#[test]
fn check_names_a_missing_index_entry() {
    inside("index::check_names_a_missing_index_entry", || {
        let nft = Nftables::open().unwrap();
        let wanted = [forwards("c1", "10.1.0.2/24", &["tcp 1 80"])];
        nft.add_ports(&wanted).unwrap();
        run("nft flush map ip cni_ports owners");
        let missing = nft.check_ports(&wanted).unwrap();
        assert_eq!(missing.len(), 1);
        assert!(missing[0].thing.contains("c1") && missing[0].thing.contains("index"), "{missing:?}");
        nft.add_ports(&wanted).unwrap();
        assert_eq!(nft.check_ports(&wanted).unwrap(), []);
        run("nft flush map ip cni_ports owners");
        nft.retain_ports(&owner("c1").network, &[]).unwrap();
        assert_eq!(port_count(), 0, "the collection of garbage does not rely on it");
    });
}

/// A runtime that has lost patience sends DEL while ADD is still at work.
#[test]
fn additions_and_removals_at_once_leave_nothing_that_is_not_in_the_index() {
    inside("index::additions_and_removals_at_once_leave_nothing_that_is_not_in_the_index", || {
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
                    nft.add_masquerade(&[masquerade("c1", "10.1.0.2", "10.1.0.0/24")]).unwrap();
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
