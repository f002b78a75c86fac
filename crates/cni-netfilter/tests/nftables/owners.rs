//! Who has a port, and what becomes of it when two want it or its holder is gone.

use cni_netfilter::{Nftables, PortForwards};
use cni_plugin::Owner;

use crate::inside::{add_masquerade, elements, forwards, inside, masquerade, owner, owner_in, ruleset, run};

fn ports() -> usize {
    elements("ip cni_ports", "ports").len()
}

#[test]
fn the_latest_addition_says_what_the_ports_are() {
    inside("owners::the_latest_addition_says_what_the_ports_are", || {
        let nft = Nftables::open().unwrap();
        nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp 1 80", "tcp 2 80", "udp 10.9.9.9:3 80"])]).unwrap();
        nft.add_ports(&[forwards("c2", "10.1.0.3/24", &["tcp 9 80"])]).unwrap();
        let less = [forwards("c1", "10.1.0.2/24", &["tcp 2 81"])];
        nft.add_ports(&less).unwrap();
        assert_eq!((ports(), elements("ip cni_ports", "address_ports").len()), (2, 0), "{}", ruleset());
        assert_eq!(elements("ip cni_ports", "sources").len(), 2, "{}", ruleset());
        assert_eq!(nft.check_ports(&less).unwrap(), []);
        assert_eq!(elements("ip cni_ports", "owners").len(), 2);
    });
}

#[test]
fn hints_that_are_not_all_are_completed() {
    inside("owners::hints_that_are_not_all_are_completed", || {
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
        add_masquerade(
            &nft,
            &[masquerade("c1", "10.1.0.2", "10.1.0.0/24"), masquerade("c1", "10.1.0.3", "10.1.0.0/24")],
        )
        .unwrap();
        nft.remove_masquerade(&owner("c1"), &["10.1.0.2".parse().unwrap()]).unwrap();
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
    });
}

#[test]
fn check_misses_the_index() {
    inside("owners::check_misses_the_index", || {
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
        assert_eq!(ports(), 0, "the collection of garbage does not rely on it");
    });
}

/// Runtimes pass the ports to each of a container's networks.
#[test]
fn the_first_network_of_a_container_serves() {
    inside("owners::the_first_network_of_a_container_serves", || {
        let nft = Nftables::open().unwrap();
        let on = |network: &str, container: &str, ports: &[&str]| PortForwards {
            owner: owner_in(network, "c1"),
            ..forwards("c1", container, ports)
        };
        let first = [on("net1", "10.1.0.2/24", &["tcp 1 80"])];
        let second = [on("net2", "10.2.0.2/24", &["tcp 1 80", "tcp 2 80"]), on("net2", "fd00::2/64", &["tcp 1 80"])];
        nft.add_ports(&first).unwrap();
        for _ in 0..2 {
            nft.add_ports(&second).unwrap();
            assert_eq!(ports(), 2, "{}", ruleset());
            assert_eq!(nft.check_ports(&first).unwrap(), []);
            assert_eq!(nft.check_ports(&second).unwrap(), []);
        }
        assert!(
            nft.add_ports(&[forwards("c2", "10.1.0.3/24", &["tcp 1 80"])]).is_err(),
            "another container is refused"
        );
        nft.remove_ports(&owner_in("net1", "c1"), &first).unwrap();
        assert!(ruleset().contains("tcp . 1 comment") && ruleset().contains(": 10.2.0.2 . 80"), "{}", ruleset());
        assert_eq!((ports(), claims()), (2, 0), "{}", ruleset());
        assert_eq!(nft.check_ports(&second).unwrap(), []);
        nft.remove_ports(&owner_in("net2", "c1"), &second).unwrap();
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
    });
}

fn claims() -> usize {
    elements("ip cni_ports", "claims").len()
}

/// What `c1` publishes on the `n`th of its networks.
fn on(n: u8, ports: &[&str], conditions: &[&str]) -> [PortForwards; 1] {
    let conditions = conditions.iter().map(|&condition| condition.to_owned()).collect();
    let owner = owner_in(&format!("net{n}"), "c1");
    [PortForwards { owner, conditions, ..forwards("c1", &format!("10.{n}.0.2/24"), ports) }]
}

fn served(by: u8) -> bool {
    elements("ip cni_ports", "ports").iter().all(|element| element.to_string().contains(&format!("\"10.{by}.0.2\"")))
}

#[test]
fn the_next_network_takes_over_whoever_goes() {
    inside("owners::the_next_network_takes_over_whoever_goes", || {
        let nft = Nftables::open().unwrap();
        let mapped = ["tcp 1 80", "udp 2 80", "tcp 10.9.9.9:3 80"];
        let nets = [1, 2, 3, 4].map(|n| on(n, &mapped, if n % 2 == 0 { &["ip saddr 10.0.0.0/8"] } else { &[] }));
        let remove = |n: usize, hints: &[PortForwards]| nft.remove_ports(&nets[n - 1][0].owner, hints).unwrap();
        let sound = |n: usize| assert_eq!(nft.check_ports(&nets[n - 1]).unwrap(), [], "{n} {}", ruleset());
        for net in &nets {
            nft.add_ports(net).unwrap();
        }
        assert_eq!((ports(), claims()), (2, 9), "{}", ruleset());
        (1..=4).for_each(sound);
        // One in the middle of the queue, with and without hints; then the holder, in both ways.
        assert_eq!(remove(3, &nets[2]), []);
        assert_eq!((ports(), claims()), (2, 6), "{}", ruleset());
        [1, 2, 4].into_iter().for_each(sound);
        assert_eq!(remove(1, &[]).len(), 3);
        assert!(served(2), "{}", ruleset());
        assert_eq!((ports(), claims(), elements("ip cni_ports", "conditions").len()), (2, 3, 2), "{}", ruleset());
        [2, 4].into_iter().for_each(sound);
        nft.add_ports(&nets[0]).unwrap();
        [1, 2, 4].into_iter().for_each(sound);
        nft.retain_ports(&"net2".parse().unwrap(), &[]).unwrap();
        assert!(served(4) && !ruleset().contains("net: net2"), "{}", ruleset());
        [1, 4].into_iter().for_each(sound);
        assert_eq!(remove(4, &nets[3]).len(), 3);
        assert!(served(1) && !ruleset().contains("when-"), "{}", ruleset());
        assert_eq!(elements("ip cni_ports", "conditions").len(), 0, "{}", ruleset());
        sound(1);
        assert_eq!(remove(1, &nets[0]).len(), 3);
        assert!(!ruleset().contains("id: c1") && !ruleset().contains("snat-local"), "{}", ruleset());
    });
}

#[test]
fn claims_follow_the_latest_addition() {
    inside("owners::claims_follow_the_latest_addition", || {
        let nft = Nftables::open().unwrap();
        nft.add_ports(&on(1, &["tcp 1 80", "tcp 2 80"], &[])).unwrap();
        nft.add_ports(&on(2, &["tcp 1 80", "tcp 2 80"], &[])).unwrap();
        nft.add_ports(&on(3, &["tcp 1 80"], &[])).unwrap();
        let changed = on(2, &["tcp 1 81"], &["ip saddr 10.0.0.0/8"]);
        assert_eq!(nft.check_ports(&changed).unwrap().len(), 3, "claim, its translation, conditions");
        nft.add_ports(&changed).unwrap();
        assert_eq!(claims(), 2, "{}", ruleset());
        run("nft flush map ip cni_ports claims");
        let missing = nft.check_ports(&changed).unwrap();
        assert!(missing.len() == 1 && missing[0].thing.contains("claim on host port 1 tcp"), "{missing:?}");
        nft.add_ports(&changed).unwrap();
        nft.remove_ports(&owner_in("net1", "c1"), &[]).unwrap();
        assert!(served(2) && ports() == 1, "{}", ruleset());
        assert_eq!(nft.check_ports(&changed).unwrap(), []);
        // The hints of before the configuration had conditions.
        nft.remove_ports(&owner_in("net2", "c1"), &on(2, &["tcp 1 81"], &[])).unwrap();
        assert!(!ruleset().contains("net: net2"), "{}", ruleset());
    });
}

#[test]
fn an_address_belongs_to_whom_it_was_given_last() {
    inside("owners::an_address_belongs_to_whom_it_was_given_last", || {
        let nft = Nftables::open().unwrap();
        let dead = [masquerade("c1", "10.1.0.2", "10.1.0.0/16"), masquerade("c1", "10.1.0.9", "10.1.0.0/16")];
        add_masquerade(&nft, &dead).unwrap();
        let new = [masquerade("c2", "10.1.0.3", "10.1.0.0/24"), masquerade("c2", "10.1.0.2", "10.1.0.0/24")];
        assert_eq!(add_masquerade(&nft, &new).unwrap(), ["container c1 (eth0) of network net1"]);
        assert_eq!(nft.check_masquerade(&new).unwrap(), []);
        assert!(ruleset().contains("10.1.0.9") && ruleset().contains("subnet-10.1.0.0/16"), "{}", ruleset());
        assert!(add_masquerade(&nft, &new).unwrap().is_empty());
        // Somebody remembers it after all.
        nft.remove_masquerade(&owner("c1"), &["10.1.0.2".parse().unwrap()]).unwrap();
        assert_eq!(nft.check_masquerade(&new).unwrap(), []);
        assert!(!ruleset().contains("id: c1") && !ruleset().contains("10.1.0.0/16"), "{}", ruleset());
        nft.remove_masquerade(&owner("c2"), &[]).unwrap();
        assert!(!ruleset().contains("id: c2"), "{}", ruleset());
    });
}

#[test]
fn a_dead_container_is_evicted_from_all_its_networks() {
    inside("owners::a_dead_container_is_evicted_from_all_its_networks", || {
        let nft = Nftables::open().unwrap();
        let dead = |n| on(n, &["tcp 1 80"], &[]).map(|forwards| PortForwards { link: Some(77), ..forwards });
        for n in [1, 2, 3] {
            nft.add_ports(&dead(n)).unwrap();
        }
        let new = [forwards("c2", "10.5.0.2/24", &["tcp 1 80"])];
        assert_eq!(nft.add_ports(&new).unwrap().evicted.len(), 3);
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
        assert_eq!(nft.check_ports(&new).unwrap(), []);
    });
}

#[test]
fn only_a_holder_whose_link_is_gone_is_evicted() {
    inside("owners::only_a_holder_whose_link_is_gone_is_evicted", || {
        let nft = Nftables::open().unwrap();
        run("ip link add host0 index 77 type veth peer name host1");
        let dead = PortForwards { link: Some(77), ..forwards("c1", "10.1.0.2/24", &["tcp 1 80", "udp 7 7"]) };
        let unknown = forwards("c2", "10.1.0.3/24", &["tcp 2 80"]);
        nft.add_ports(&[dead, unknown]).unwrap();
        let new = [forwards("c3", "10.1.0.4/24", &["tcp 1 80"])];
        let error = nft.add_ports(&new).unwrap_err().to_string();
        assert_eq!(
            error,
            "host port 1 tcp is held by container c1 (eth0) of network net1: detach that first, or ask for another"
        );
        run("ip link delete host0");
        let both = [forwards("c3", "10.1.0.4/24", &["tcp 1 80", "tcp 2 80"])];
        assert!(nft.add_ports(&both).unwrap_err().to_string().contains("c2"), "nothing is known of c2's link");
        assert!(ruleset().contains("id: c1"), "all or none");
        let evicted = nft.add_ports(&new).unwrap().evicted;
        assert_eq!(evicted.iter().map(|e| &e.holder).collect::<Vec<_>>(), ["container c1 (eth0) of network net1"]);
        assert_eq!(evicted[0].ports.len(), 2, "all that was published for it: {evicted:?}");
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
        assert_eq!(nft.check_ports(&new).unwrap(), []);
        let c2: Owner = owner("c2");
        nft.remove_ports(&c2, &[]).unwrap();
        assert_eq!(ports(), 1);
    });
}

#[test]
fn what_an_addition_withdraws_goes_to_who_waits_for_it() {
    inside("owners::what_an_addition_withdraws_goes_to_who_waits_for_it", || {
        let nft = Nftables::open().unwrap();
        let mapped = ["tcp 1 80", "udp 10.9.9.9:2 80"];
        let sound = |wanted: &[PortForwards]| assert_eq!(nft.check_ports(wanted).unwrap(), [], "{}", ruleset());
        let second = on(2, &mapped, &["ip saddr 10.0.0.0/8"]);
        nft.add_ports(&on(1, &mapped, &["tcp sport 1"])).unwrap();
        nft.add_ports(&second).unwrap();
        nft.add_ports(&on(3, &mapped, &[])).unwrap();
        let other = on(1, &["tcp 9 90"], &[]);
        let mut withdrawn = nft.add_ports(&other).unwrap().withdrawn;
        withdrawn.sort();
        assert_eq!(withdrawn, on(1, &mapped, &[])[0].ports, "it says so");
        for wanted in [&second, &on(3, &mapped, &[]), &other] {
            sound(wanted);
        }
        assert_eq!((ports(), claims()), (2, 2), "{}", ruleset());
        assert!(!ruleset().contains("tcp sport 1 "), "its own conditions are gone: {}", ruleset());
        // With more than can be asked for first.
        let many: Vec<String> = (100..200).map(|port| format!("tcp {port} 80")).collect();
        let many = on(2, &many.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        assert_eq!(nft.add_ports(&many).unwrap().withdrawn.len(), 2);
        sound(&many);
        sound(&on(3, &mapped, &[]));
        for n in 1..=3 {
            nft.remove_ports(&on(n, &[], &[])[0].owner, &[]).unwrap();
        }
        assert!(!ruleset().contains("id: c1") && !ruleset().contains("snat-local"), "{}", ruleset());
        assert_eq!(nft.add_ports(&other).unwrap().withdrawn, []);
        assert_eq!(nft.add_ports(&other).unwrap().withdrawn, []);
    });
}
