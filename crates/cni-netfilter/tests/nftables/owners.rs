//! What every intent has in common: an owner has what it added last, and only its own goes with it.

use cni_netfilter::{NftError, Nftables};

use crate::inside::{Attempt, elements, forwards, handles, inside, masquerade, owner, owner_in, ruleset};

#[test]
fn an_empty_namespace_is_left_empty() {
    inside("owners::an_empty_namespace_is_left_empty", || {
        let nft = Nftables::open().unwrap();
        nft.usable().unwrap();
        nft.add_masquerade(&[]).unwrap();
        nft.add_ports(&[]).unwrap();
        nft.remove_masquerade(&owner("c1"), &["10.1.0.2".parse().unwrap()]).unwrap();
        nft.remove_ports(&owner("c1"), &[forwards("c1", "10.1.0.2/24", &["tcp 1 1"])]).unwrap();
        nft.remove_ports(&owner("c1"), &[]).unwrap();
        nft.retain_masquerade(&owner("c1").network, &[]).unwrap();
        nft.retain_ports(&owner("c1").network, &[]).unwrap();
        assert_eq!(ruleset(), "");
        let missing = nft.check_masquerade(&[masquerade("c1", "10.1.0.2", "10.1.0.0/24")]).unwrap();
        let things: Vec<_> = missing.iter().map(|difference| difference.thing.as_str()).collect();
        assert_eq!(
            things,
            [
                "nftables set inet cni_masquerade hosts4",
                "nftables set inet cni_masquerade hosts6",
                "nftables set inet cni_masquerade owners",
                "nftables chain inet cni_masquerade postrouting",
                "nftables chain inet cni_masquerade subnet-10.1.0.0/24",
                "masquerading of 10.1.0.2",
                "entry of container c1 (eth0) of network net1 in the index of inet cni_masquerade",
            ]
        );
    });
}

#[test]
fn adding_again_changes_nothing() {
    inside("owners::adding_again_changes_nothing", || {
        let nft = Nftables::open().unwrap();
        let intents = [masquerade("c1", "10.1.0.2", "10.1.0.0/24")];
        let ports = [forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "tcp 8080 80"])];
        nft.add_masquerade(&intents).unwrap();
        nft.add_ports(&ports).unwrap();
        let before = handles();
        nft.add_masquerade(&intents).unwrap();
        nft.add_ports(&ports).unwrap();
        assert_eq!(handles(), before);
        // The same owner with another target: the new one holds.
        let moved = [forwards("c1", "10.1.0.2/24", &["tcp 8080 81"])];
        nft.add_ports(&moved).unwrap();
        assert_eq!(nft.check_ports(&moved).unwrap(), []);
        assert_eq!(elements("ip cni_ports", "ports").len(), 1);
    });
}

#[test]
fn contradictions_are_refused() {
    inside("owners::contradictions_are_refused", || {
        let nft = Nftables::open().unwrap();
        let twice = nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "tcp 8080 81"])]).unwrap_err();
        assert!(matches!(twice, NftError::Twice { .. }), "{twice:?}");
        let mut conditional = forwards("c1", "10.1.0.2/24", &["tcp 8080 80"]);
        conditional.conditions.push("socket wildcard 1".to_owned());
        let refused = nft.add_ports(&[conditional]).unwrap_err();
        assert!(refused.to_string().contains("socket"), "{refused}");
        let mixed = nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp [::1]:8080 80"])]).unwrap_err();
        assert!(matches!(mixed, NftError::Family { .. }), "{mixed:?}");
        let mixed = nft.add_masquerade(&[masquerade("c1", "10.1.0.2", "fd00::/64")]).unwrap_err();
        assert!(matches!(mixed, NftError::Family { .. }), "{mixed:?}");
        assert_eq!(ruleset(), "");
    });
}

const INET: &str = "inet cni_masquerade";

#[test]
fn a_removal_takes_the_owners_elements_and_no_others() {
    inside("owners::a_removal_takes_the_owners_elements_and_no_others", || {
        let nft = Nftables::open().unwrap();
        let add = |id: &str, host: u8| {
            nft.add_masquerade(&[masquerade(id, &format!("10.1.0.{host}"), "10.1.0.0/24")]).unwrap();
            let ports =
                forwards(id, &format!("10.1.0.{host}/24"), &[&format!("tcp 80{host:02} 80"), "tcp 192.0.2.1:1 1"][..1]);
            nft.add_ports(std::slice::from_ref(&ports)).unwrap();
            ports
        };
        let (one, two) = (add("c1", 2), add("c2", 3));
        // With another owner's hints, and without hints, the owner's elements are found by a search of all.
        nft.remove_masquerade(&owner("c1"), &["10.1.0.3".parse().unwrap()]).unwrap();
        nft.remove_ports(&owner("c1"), std::slice::from_ref(&two)).unwrap();
        assert_eq!(nft.check_masquerade(&[masquerade("c2", "10.1.0.3", "10.1.0.0/24")]).unwrap(), []);
        assert_eq!(nft.check_ports(std::slice::from_ref(&two)).unwrap(), []);
        assert_eq!(elements(INET, "hosts4").len(), 1);
        assert_eq!(elements("ip cni_ports", "ports").len(), 1);
        assert_eq!(elements("ip cni_ports", "sources").len(), 1);
        // Again, and with the right hints: nothing to do, and no error.
        nft.remove_masquerade(&owner("c1"), &["10.1.0.2".parse().unwrap()]).unwrap();
        nft.remove_ports(&owner("c1"), &[one]).unwrap();
        // Hints may repeat themselves.
        nft.remove_masquerade(&owner("c3"), &["10.1.0.3".parse().unwrap(), "10.1.0.3".parse().unwrap()]).unwrap();
        // The last one takes the chains of the subnet along.
        nft.remove_masquerade(&owner("c2"), &["10.1.0.3".parse().unwrap(), "10.1.0.3".parse().unwrap()]).unwrap();
        nft.remove_ports(&owner("c2"), &[two.clone(), two]).unwrap();
        let rules = ruleset();
        assert!(!rules.contains("subnet-") && !rules.contains("snat-local-") && !rules.contains("elements"), "{rules}");
        add("c3", 4);
        assert_eq!(elements(INET, "hosts4").len(), 1);
    });
}

#[test]
fn garbage_collection_keeps_valid_owners_and_other_networks() {
    inside("owners::garbage_collection_keeps_valid_owners_and_other_networks", || {
        let nft = Nftables::open().unwrap();
        let other_owner = owner_in("net2", "c1");
        let mut other = masquerade("c1", "10.2.0.2", "10.2.0.0/24");
        other.owner = other_owner.clone();
        let mut other_ports = forwards("c1", "10.2.0.2/24", &["tcp 9000 80"]);
        other_ports.owner = other_owner;
        let (one, two) = (masquerade("c1", "10.1.0.2", "10.1.0.0/24"), masquerade("c2", "10.3.0.2", "10.3.0.0/24"));
        let (ports, stale) = (
            forwards("c1", "10.1.0.2/24", &["tcp 8080 80"]),
            forwards("c2", "10.3.0.2/24", &["tcp 8081 80", "udp 1 1"]),
        );
        nft.add_masquerade(&[one.clone(), two, other.clone()]).unwrap();
        nft.add_ports(&[ports.clone(), stale, other_ports.clone()]).unwrap();
        nft.retain_masquerade(&owner("c1").network, &[owner("c1")]).unwrap();
        nft.retain_ports(&owner("c1").network, &[owner("c1")]).unwrap();
        assert_eq!(nft.check_masquerade(&[one, other]).unwrap(), []);
        assert_eq!(nft.check_ports(&[ports, other_ports]).unwrap(), []);
        let rules = ruleset();
        assert!(!rules.contains("id: c2") && !rules.contains("10.3.0.0"), "{rules}");
        nft.retain_masquerade(&owner("c1").network, &[]).unwrap();
        assert_eq!(elements(INET, "hosts4").len(), 1);
    });
}

#[test]
fn many_additions_and_removals_at_once_do_not_disturb_one_another() {
    inside("owners::many_additions_and_removals_at_once_do_not_disturb_one_another", || {
        std::thread::scope(|scope| {
            for worker in 0..12_u8 {
                scope.spawn(move || {
                    let nft = Nftables::open().unwrap();
                    let id = format!("c{worker}");
                    // Subnets that come and go under the others.
                    for round in 0..20_u8 {
                        let (net, host) = (round % 3, worker + 2);
                        let subnet = format!("10.{net}.0.0/24");
                        let address = format!("10.{net}.0.{host}");
                        let intent = [masquerade(&id, &address, &subnet)];
                        let ports = [forwards(
                            &id,
                            &format!("{address}/24"),
                            &[&format!("tcp {} 80", 100 + u16::from(worker))],
                        )];
                        nft.add_masquerade(&intent).attempt("add masquerade");
                        nft.add_ports(&ports).attempt("add ports");
                        assert_eq!(nft.check_masquerade(&intent).unwrap(), []);
                        assert_eq!(nft.check_ports(&ports).unwrap(), []);
                        nft.remove_masquerade(&owner(&id), &[address.parse().unwrap()]).attempt("remove masquerade");
                        let hints = if round % 2 == 0 { &ports[..] } else { &[] };
                        nft.remove_ports(&owner(&id), hints).attempt("remove ports");
                    }
                });
            }
        });
        let rules = ruleset();
        assert!(!rules.contains("elements") && !rules.contains("subnet-") && !rules.contains("snat-local"), "{rules}");
    });
}
