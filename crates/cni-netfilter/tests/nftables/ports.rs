//! Published ports: what is in the rule set, and who has a port.

use cni_netfilter::{NftError, Nftables, PortForwards, Snat};
use cni_plugin::Owner;

use crate::inside::{elements, forwards, handles, inside, masquerade, on_network, owner, port_count, ruleset, run};

#[test]
fn ports_are_elements_of_the_family_table() {
    inside("ports::ports_are_elements_of_the_family_table", || {
        let nft = Nftables::open().unwrap();
        let mut four = forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 192.0.2.1:53 5353", "sctp 0.0.0.0:7 70"]);
        four.guard_localnet = true;
        let mut six = forwards("c1", "fd00::2/64", &["tcp 8080 80"]);
        six.snat = Snat::All;
        nft.add_ports(&[four.clone(), six.clone()]).unwrap();
        let rules = ruleset();
        for line in [
            "tcp . 8080 comment \"8e48f37d5de60467-f4d01f2ef4b92245, id: c1, if: eth0, net: net1\" : 10.1.0.2 . 80",
            "sctp . 7 comment",
            "192.0.2.1 . udp . 53 comment",
            "10.1.0.2 . udp . 5353 . 53 comment",
            "goto snat-local-10.1.0.0/24",
            "fd00::2 . tcp . 80 . 8080 comment",
            "goto snat-all",
            "ip saddr 10.1.0.0/24 masquerade\n\t\tip saddr 127.0.0.1 masquerade",
            "fib daddr type local goto forwards",
            "ip daddr 127.0.0.0/8 iifname != \"lo\" drop\n\t\tip saddr 127.0.0.0/8 iifname != \"lo\" drop",
        ] {
            assert!(rules.contains(line), "{line} is not in\n{rules}");
        }
        assert_eq!(nft.check_ports(&[four, six]).unwrap(), []);
    });
}

#[test]
fn what_another_container_holds_is_refused_and_nothing_changes() {
    inside("ports::what_another_container_holds_is_refused_and_nothing_changes", || {
        let nft = Nftables::open().unwrap();
        nft.add_masquerade(&[masquerade("c1", "10.1.0.2", "10.1.0.0/24")]).unwrap();
        nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp 8080 80"])]).unwrap();
        nft.add_ports(&[forwards("c1", "fd00::2/64", &["tcp 8080 80"])]).unwrap();
        let before = handles();
        // The IPv4 part alone would be fine.
        let wanted = [forwards("c2", "10.1.0.3/24", &["tcp 8081 80"]), forwards("c2", "fd00::3/64", &["tcp 8080 80"])];
        let error = nft.add_ports(&wanted).unwrap_err();
        assert!(matches!(&error, NftError::HeldBy { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "host port 8080 tcp is held by container c1 (eth0) of network net1: detach that container first, or request another one"
        );
        assert_eq!(handles(), before);
        let differences = nft.check_ports(&[forwards("c2", "fd00::3/64", &["tcp 8080 80"])]).unwrap();
        assert_eq!(
            differences[0].to_string(),
            "host port 8080 tcp: expected held by container c2 (eth0) of network net1, \
             found held by container c1 (eth0) of network net1"
        );
    });
}

#[test]
fn a_dead_container_is_displaced_from_all_its_networks() {
    inside("ports::a_dead_container_is_displaced_from_all_its_networks", || {
        let nft = Nftables::open().unwrap();
        let dead = |n| on_network(n, &["tcp 1 80"], &[]).map(|forwards| PortForwards { link: Some(77), ..forwards });
        for n in [1, 2, 3] {
            nft.add_ports(&dead(n)).unwrap();
        }
        let new = [forwards("c2", "10.5.0.2/24", &["tcp 1 80"])];
        assert_eq!(nft.add_ports(&new).unwrap().0.len(), 3);
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
        assert_eq!(nft.check_ports(&new).unwrap(), []);
    });
}

#[test]
fn only_a_holder_whose_link_is_gone_is_displaced() {
    inside("ports::only_a_holder_whose_link_is_gone_is_displaced", || {
        let nft = Nftables::open().unwrap();
        run("ip link add host0 index 77 type veth peer name host1");
        let dead = PortForwards { link: Some(77), ..forwards("c1", "10.1.0.2/24", &["tcp 1 80", "udp 7 7"]) };
        let unknown = forwards("c2", "10.1.0.3/24", &["tcp 2 80"]);
        nft.add_ports(&[dead, unknown]).unwrap();
        let new = [forwards("c3", "10.1.0.4/24", &["tcp 1 80"])];
        let error = nft.add_ports(&new).unwrap_err().to_string();
        assert_eq!(
            error,
            "host port 1 tcp is held by container c1 (eth0) of network net1: detach that container first, or request another one"
        );
        run("ip link delete host0");
        let both = [forwards("c3", "10.1.0.4/24", &["tcp 1 80", "tcp 2 80"])];
        assert!(nft.add_ports(&both).unwrap_err().to_string().contains("c2"), "nothing is known of c2's link");
        assert!(ruleset().contains("id: c1"), "all or none");
        let (displaced, _) = nft.add_ports(&new).unwrap();
        assert_eq!(displaced.iter().map(|e| &e.holder).collect::<Vec<_>>(), ["container c1 (eth0) of network net1"]);
        assert_eq!(displaced[0].ports.len(), 2, "all that was published for it: {displaced:?}");
        assert!(!ruleset().contains("id: c1"), "{}", ruleset());
        assert_eq!(nft.check_ports(&new).unwrap(), []);
        let c2: Owner = owner("c2");
        nft.remove_ports(&c2, &[]).unwrap();
        assert_eq!(port_count(), 1);
    });
}

#[test]
fn ten_thousand_ports_are_one_transaction() {
    inside("ports::ten_thousand_ports_are_one_transaction", || {
        let nft = Nftables::open().unwrap();
        let texts: Vec<String> = (0..10_000).map(|port| format!("tcp {} {}", 10_000 + port, port + 1)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut ports = forwards("c1", "10.1.0.2/24", &texts);
        // One that is taken: all or nothing.
        let taken = [forwards("c2", "10.1.0.3/24", &["tcp 19999 1"])];
        nft.add_ports(&taken).unwrap();
        let error = nft.add_ports(std::slice::from_ref(&ports)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "host port 19999 tcp is held by container c2 (eth0) of network net1: detach that container first, or request another one"
        );
        assert_eq!(elements("ip cni_ports", "ports").len(), 1);
        nft.remove_ports(&owner("c2"), &taken).unwrap();
        nft.add_ports(std::slice::from_ref(&ports)).unwrap();
        assert_eq!(elements("ip cni_ports", "ports").len(), 10_000);
        assert_eq!(nft.check_ports(std::slice::from_ref(&ports)).unwrap(), []);
        ports.ports.truncate(1);
        nft.remove_ports(&owner("c1"), &[]).unwrap();
        assert_eq!(elements("ip cni_ports", "ports").len(), 0);
        assert_eq!(elements("ip cni_ports", "sources").len(), 0);
    });
}
