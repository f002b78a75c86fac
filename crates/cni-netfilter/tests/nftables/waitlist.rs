//! Ports that several networks of one container want.

use cni_netfilter::{Nftables, PortForwards};

use crate::inside::{elements, forwards, inside, on_network, owner_in, port_count, ruleset, run};

/// Runtimes pass the ports to each of a container's networks.
#[test]
fn the_first_network_of_a_container_serves() {
    inside("waitlist::the_first_network_of_a_container_serves", || {
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
            assert_eq!(port_count(), 2, "{}", ruleset());
            assert_eq!(nft.check_ports(&first).unwrap(), []);
            assert_eq!(nft.check_ports(&second).unwrap(), []);
        }
        assert!(
            nft.add_ports(&[forwards("c2", "10.1.0.3/24", &["tcp 1 80"])]).is_err(),
            "another container is refused"
        );
        nft.remove_ports(&owner_in("net1", "c1"), &first).unwrap();
        assert!(ruleset().contains("tcp . 1 comment") && ruleset().contains(": 10.2.0.2 . 80"), "{}", ruleset());
        assert_eq!((port_count(), waiting()), (2, 0), "{}", ruleset());
        assert_eq!(nft.check_ports(&second).unwrap(), []);
        nft.remove_ports(&owner_in("net2", "c1"), &second).unwrap();
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
    });
}

fn waiting() -> usize {
    elements("ip cni_ports", "claims").len()
}

fn served(by: u8) -> bool {
    elements("ip cni_ports", "ports").iter().all(|element| element.to_string().contains(&format!("\"10.{by}.0.2\"")))
}

#[test]
fn the_next_network_takes_over_when_the_first_goes() {
    inside("waitlist::the_next_network_takes_over_when_the_first_goes", || {
        let nft = Nftables::open().unwrap();
        let mapped = ["tcp 1 80", "udp 2 80", "tcp 10.9.9.9:3 80"];
        let nets =
            [1, 2, 3, 4].map(|n| on_network(n, &mapped, if n % 2 == 0 { &["ip saddr 10.0.0.0/8"] } else { &[] }));
        let remove = |n: usize, hints: &[PortForwards]| nft.remove_ports(&nets[n - 1][0].owner, hints).unwrap();
        let sound = |n: usize| assert_eq!(nft.check_ports(&nets[n - 1]).unwrap(), [], "{n} {}", ruleset());
        for net in &nets {
            nft.add_ports(net).unwrap();
        }
        assert_eq!((port_count(), waiting()), (2, 9), "{}", ruleset());
        (1..=4).for_each(sound);
        // One in the middle of the queue, with and without hints; then the holder, in both ways.
        assert_eq!(remove(3, &nets[2]), []);
        assert_eq!((port_count(), waiting()), (2, 6), "{}", ruleset());
        [1, 2, 4].into_iter().for_each(sound);
        assert_eq!(remove(1, &[]).len(), 3);
        assert!(served(2), "{}", ruleset());
        assert_eq!((port_count(), waiting(), elements("ip cni_ports", "conditions").len()), (2, 3, 2), "{}", ruleset());
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
fn the_waitlist_follows_the_latest_addition() {
    inside("waitlist::the_waitlist_follows_the_latest_addition", || {
        let nft = Nftables::open().unwrap();
        nft.add_ports(&on_network(1, &["tcp 1 80", "tcp 2 80"], &[])).unwrap();
        nft.add_ports(&on_network(2, &["tcp 1 80", "tcp 2 80"], &[])).unwrap();
        nft.add_ports(&on_network(3, &["tcp 1 80"], &[])).unwrap();
        let changed = on_network(2, &["tcp 1 81"], &["ip saddr 10.0.0.0/8"]);
        assert_eq!(nft.check_ports(&changed).unwrap().len(), 3, "waitlist entry, its translation, conditions");
        nft.add_ports(&changed).unwrap();
        assert_eq!(waiting(), 2, "{}", ruleset());
        run("nft flush map ip cni_ports claims");
        let missing = nft.check_ports(&changed).unwrap();
        assert!(missing.len() == 1 && missing[0].thing.contains("waitlist entry for host port 1 tcp"), "{missing:?}");
        nft.add_ports(&changed).unwrap();
        nft.remove_ports(&owner_in("net1", "c1"), &[]).unwrap();
        assert!(served(2) && port_count() == 1, "{}", ruleset());
        assert_eq!(nft.check_ports(&changed).unwrap(), []);
        // The hints of before the configuration had conditions.
        nft.remove_ports(&owner_in("net2", "c1"), &on_network(2, &["tcp 1 81"], &[])).unwrap();
        assert!(!ruleset().contains("net: net2"), "{}", ruleset());
    });
}

#[test]
fn what_an_addition_withdraws_goes_to_the_next_in_the_waitlist() {
    inside("waitlist::what_an_addition_withdraws_goes_to_the_next_in_the_waitlist", || {
        let nft = Nftables::open().unwrap();
        let mapped = ["tcp 1 80", "udp 10.9.9.9:2 80"];
        let sound = |wanted: &[PortForwards]| assert_eq!(nft.check_ports(wanted).unwrap(), [], "{}", ruleset());
        let second = on_network(2, &mapped, &["ip saddr 10.0.0.0/8"]);
        nft.add_ports(&on_network(1, &mapped, &["tcp sport 1"])).unwrap();
        nft.add_ports(&second).unwrap();
        nft.add_ports(&on_network(3, &mapped, &[])).unwrap();
        let other = on_network(1, &["tcp 9 90"], &[]);
        let (_, mut withdrawn) = nft.add_ports(&other).unwrap();
        withdrawn.sort();
        assert_eq!(withdrawn, on_network(1, &mapped, &[])[0].ports, "it says so");
        for wanted in [&second, &on_network(3, &mapped, &[]), &other] {
            sound(wanted);
        }
        assert_eq!((port_count(), waiting()), (2, 2), "{}", ruleset());
        assert!(!ruleset().contains("tcp sport 1 "), "its own conditions are gone: {}", ruleset());
        // With more than can be asked for first.
        let many: Vec<String> = (100..200).map(|port| format!("tcp {port} 80")).collect();
        let many = on_network(2, &many.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        assert_eq!(nft.add_ports(&many).unwrap().1.len(), 2);
        sound(&many);
        sound(&on_network(3, &mapped, &[]));
        for n in 1..=3 {
            nft.remove_ports(&on_network(n, &[], &[])[0].owner, &[]).unwrap();
        }
        assert!(!ruleset().contains("id: c1") && !ruleset().contains("snat-local"), "{}", ruleset());
        assert_eq!(nft.add_ports(&other).unwrap().1, []);
        assert_eq!(nft.add_ports(&other).unwrap().1, []);
    });
}
