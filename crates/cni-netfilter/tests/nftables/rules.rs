//! What is in the rule set after each operation.

use cni_netfilter::{Masquerade, NftError, Nftables, Snat};

use crate::inside::{add_masquerade, elements, forwards, handles, inside, masquerade, owner, owner_in, ruleset, run};

const INET: &str = "inet cni_masquerade";

#[test]
fn masquerading_is_one_element_and_one_chain_for_the_subnet() {
    inside("rules::masquerading_is_one_element_and_one_chain_for_the_subnet", || {
        let nft = Nftables::open().unwrap();
        add_masquerade(&nft, &[masquerade("c1", "10.1.0.2", "10.1.0.1/20"), masquerade("c1", "fd00::2", "fd00::/64")])
            .unwrap();
        let rules = ruleset();
        for line in [
            "10.1.0.2 comment \"8e48f37d5de60467-f4d01f2ef4b92245, id: c1, if: eth0, net: net1\" : goto subnet-10.1.0.0/20",
            "goto subnet-fd00__/64",
            "type nat hook postrouting priority srcnat; policy accept;",
            "ip daddr 224.0.0.0/4 return\n\t\tip6 daddr ff00::/8 return\n\t\tip saddr vmap @hosts4\n\t\tip6 saddr vmap @hosts6",
            "chain subnet-10.1.0.0/20 {\n\t\tip daddr 10.1.0.0/20 return\n\t\tmasquerade",
            "chain subnet-fd00__/64 {\n\t\tip6 daddr fd00::/64 return\n\t\tmasquerade",
        ] {
            assert!(rules.contains(line), "{line} is not in\n{rules}");
        }
    });
}

#[test]
fn ports_are_elements_of_the_family_table() {
    inside("rules::ports_are_elements_of_the_family_table", || {
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
fn adding_again_changes_nothing() {
    inside("rules::adding_again_changes_nothing", || {
        let nft = Nftables::open().unwrap();
        let intents = [masquerade("c1", "10.1.0.2", "10.1.0.0/24")];
        let ports = [forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "tcp 8080 80"])];
        add_masquerade(&nft, &intents).unwrap();
        nft.add_ports(&ports).unwrap();
        let before = handles();
        add_masquerade(&nft, &intents).unwrap();
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
fn what_somebody_else_holds_is_refused_and_nothing_changes() {
    inside("rules::what_somebody_else_holds_is_refused_and_nothing_changes", || {
        let nft = Nftables::open().unwrap();
        add_masquerade(&nft, &[masquerade("c1", "10.1.0.2", "10.1.0.0/24")]).unwrap();
        nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp 8080 80"])]).unwrap();
        nft.add_ports(&[forwards("c1", "fd00::2/64", &["tcp 8080 80"])]).unwrap();
        let before = handles();
        // The IPv4 part alone would be fine.
        let wanted = [forwards("c2", "10.1.0.3/24", &["tcp 8081 80"]), forwards("c2", "fd00::3/64", &["tcp 8080 80"])];
        let error = nft.add_ports(&wanted).unwrap_err();
        assert!(matches!(&error, NftError::HeldBy { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "host port 8080 tcp is held by container c1 (eth0) of network net1: detach that first, or ask for another"
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
fn contradictions_are_refused() {
    inside("rules::contradictions_are_refused", || {
        let nft = Nftables::open().unwrap();
        let twice = nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "tcp 8080 81"])]).unwrap_err();
        assert!(matches!(twice, NftError::Twice { .. }), "{twice:?}");
        let mut conditional = forwards("c1", "10.1.0.2/24", &["tcp 8080 80"]);
        conditional.conditions.push("socket wildcard 1".to_owned());
        let refused = nft.add_ports(&[conditional]).unwrap_err();
        assert!(refused.to_string().contains("socket"), "{refused}");
        let mixed = nft.add_ports(&[forwards("c1", "10.1.0.2/24", &["tcp [::1]:8080 80"])]).unwrap_err();
        assert!(matches!(mixed, NftError::Family { .. }), "{mixed:?}");
        let mixed = add_masquerade(&nft, &[masquerade("c1", "10.1.0.2", "fd00::/64")]).unwrap_err();
        assert!(matches!(mixed, NftError::Family { .. }), "{mixed:?}");
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn removing_takes_the_owners_elements_and_nobody_elses() {
    inside("rules::removing_takes_the_owners_elements_and_nobody_elses", || {
        let nft = Nftables::open().unwrap();
        let add = |id: &str, host: u8| {
            add_masquerade(&nft, &[masquerade(id, &format!("10.1.0.{host}"), "10.1.0.0/24")]).unwrap();
            let ports =
                forwards(id, &format!("10.1.0.{host}/24"), &[&format!("tcp 80{host:02} 80"), "tcp 192.0.2.1:1 1"][..1]);
            nft.add_ports(std::slice::from_ref(&ports)).unwrap();
            ports
        };
        let (one, two) = (add("c1", 2), add("c2", 3));
        // Hints that are somebody else's, and none at all, find the owner's by walking.
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
    inside("rules::garbage_collection_keeps_valid_owners_and_other_networks", || {
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
        add_masquerade(&nft, &[one.clone(), two, other.clone()]).unwrap();
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
fn rules_of_the_go_plugins_go_with_their_owner() {
    inside("rules::rules_of_the_go_plugins_go_with_their_owner", || {
        let go =
            |id: &str, network: &str| format!("{}, net: {network}, if: eth0, id: {id}", owner_in(network, id).key());
        let rule = |address: &str, comment: &str| {
            format!("ip saddr {address} ip daddr != 10.1.0.0/24 masquerade comment \"{comment}\"\n")
        };
        let masquerading = format!(
            "table inet cni_plugins_masquerade {{ chain masq_checks {{ {}{}{}{} }}\n}}",
            rule("10.1.0.2", &go("c1", "net1")),
            rule("10.1.0.3", &go("c2", "net1")),
            rule("10.1.0.4", &go("c1", "net2")),
            rule("10.1.0.5", "not theirs")
        );
        let ports = |family: &str, address: &str| {
            let rule = |port: u16, id: &str| format!("tcp dport {port} dnat to {address} comment \"{id}\"\n");
            format!(
                "table {family} cni_hostport {{ chain hostports {{ {}{} }}\n chain masquerading {{ masquerade comment \"c1\"\n }}\n}}",
                rule(1, "c1"),
                rule(2, "c12")
            )
        };
        let text = format!("{masquerading}\n{}\n{}", ports("ip", "10.1.0.2:1"), ports("ip6", "[fd00::2]:1"));
        std::fs::write("/run/go.nft", text).unwrap();
        run("nft -f /run/go.nft");
        let nft = Nftables::open().unwrap();
        let left = |word: &str| ruleset().matches(word).count();
        nft.remove_masquerade(&owner("c1"), &[]).unwrap();
        assert_eq!((left("id: c1"), left("id: c2"), left("not theirs")), (1, 1, 1), "{}", ruleset());
        nft.remove_ports(&owner("c1"), &[]).unwrap();
        assert_eq!((left("\"c1\""), left("\"c12\"")), (0, 2), "{}", ruleset());
        nft.retain_masquerade(&owner("c1").network, &[]).unwrap();
        assert_eq!((left("id: c1"), left("id: c2"), left("not theirs")), (1, 0, 1), "{}", ruleset());
    });
}

#[test]
fn masquerading_of_the_go_plugins_passes_check() {
    inside("rules::masquerading_of_the_go_plugins_passes_check", || {
        let go = |id: &str| format!("{}, net: net1, if: eth0, id: {id}", owner_in("net1", id).key());
        let text = format!(
            "table inet cni_plugins_masquerade {{
                chain masq_checks {{
                    ip saddr 10.1.0.2 ip daddr != 10.1.0.0/24 masquerade comment \"{}\"
                    ip6 saddr fd00::2 ip6 daddr != fd00::/64 masquerade comment \"{}\"
                    ip saddr 10.1.0.3 ip daddr != 10.1.0.0/24 counter comment \"{}\"
                }}
                chain postrouting {{
                    type nat hook postrouting priority srcnat;
                    ip daddr == 224.0.0.0/4 return
                    ip6 daddr == ff00::/8 return
                    goto masq_checks
                }}
            }}",
            go("c1"),
            go("c1"),
            go("c2")
        );
        std::fs::write("/run/go.nft", text).unwrap();
        run("nft -f /run/go.nft");
        let nft = Nftables::open().unwrap();
        let (v4, v6) = (masquerade("c1", "10.1.0.2", "10.1.0.0/24"), masquerade("c1", "fd00::2", "fd00::/64"));
        assert_eq!(nft.check_masquerade(&[v4.clone(), v6.clone()]).unwrap(), []);
        let differs = |of: &[Masquerade]| !nft.check_masquerade(of).unwrap().is_empty();
        assert!(differs(&[masquerade("c2", "10.1.0.3", "10.1.0.0/24")]), "without a masquerade statement");
        assert!(differs(&[v4.clone(), masquerade("c1", "10.1.0.9", "10.1.0.0/24")]), "another address");
        assert!(differs(&[masquerade("c3", "10.1.0.2", "10.1.0.0/24")]), "another owner");
        run("nft flush chain inet cni_plugins_masquerade postrouting");
        assert!(differs(&[v4]), "nothing leads to the rules");
    });
}

#[test]
fn the_guard_is_repaired_and_takes_the_place_of_a_former_one() {
    inside("rules::the_guard_is_repaired_and_takes_the_place_of_a_former_one", || {
        let nft = Nftables::open().unwrap();
        // As earlier versions made it.
        run("
            nft add table ip cni_localnet
            nft 'add set ip cni_localnet guarded { type ifname; }'
            nft 'add chain ip cni_localnet prerouting { type filter hook prerouting priority raw; }'
            nft 'add rule ip cni_localnet prerouting iifname @guarded ip daddr 127.0.0.0/8 drop'
            nft 'add rule ip cni_localnet prerouting iifname @guarded ip saddr 127.0.0.0/8 drop'
        ");
        assert!(!nft.check_localnet_guard().unwrap().is_empty());
        nft.retain_ports(&owner("c1").network, &[]).unwrap();
        assert!(ruleset().contains("chain prerouting"), "not before there is another");
        nft.guard_localnet().unwrap();
        assert_eq!(nft.check_localnet_guard().unwrap(), []);
        nft.retain_ports(&owner("c1").network, &[]).unwrap();
        assert!(!ruleset().contains("@guarded"));
        let whole = ruleset();
        for damage in
            ["flush ruleset", "flush chain ip cni_localnet guard", "add table ip cni_localnet { flags dormant; }"]
        {
            run(&format!("nft '{damage}'"));
            assert!(!nft.check_localnet_guard().unwrap().is_empty(), "{damage}");
            nft.guard_localnet().unwrap();
            assert_eq!(nft.check_localnet_guard().unwrap(), [], "{damage}");
        }
        assert!(whole.contains("chain guard") && !ruleset().contains("dormant"));
    });
}
