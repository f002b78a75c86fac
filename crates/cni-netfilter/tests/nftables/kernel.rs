//! The rule set as others see and change it: damage, listings, large transactions, and many at once.

use cni_netfilter::{Nftables, PortForwards, Snat, TableFamily};

use crate::inside::{Attempt, add_masquerade, elements, forwards, inside, masquerade, owner, ruleset, run};

const INET: &str = "inet cni_masquerade";

#[test]
fn an_empty_namespace_is_left_empty() {
    inside("kernel::an_empty_namespace_is_left_empty", || {
        let nft = Nftables::open().unwrap();
        nft.usable().unwrap();
        add_masquerade(&nft, &[]).unwrap();
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
fn check_names_what_is_wrong_with_the_shared_part() {
    inside("kernel::check_names_what_is_wrong_with_the_shared_part", || {
        let nft = Nftables::open().unwrap();
        let intents = [masquerade("c1", "10.1.0.2", "10.1.0.0/24")];
        let find = |damage: &str| {
            run("nft flush ruleset");
            add_masquerade(&nft, &intents).unwrap();
            run(damage);
            let found = nft.check_masquerade(&intents).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(find("true"), "");
        let chain = "nftables chain inet cni_masquerade";
        let missing = format!("rule \"ip saddr vmap @hosts4\" of {chain} postrouting: expected present, found nothing");
        let delete = |rule: &str, chain: &str| {
            format!(
                "handle=$(nft -a list chain {INET} {chain} | sed -n 's/.*{rule} # handle //p'); nft delete rule {INET} {chain} handle $handle"
            )
        };
        assert_eq!(find(&delete("ip saddr vmap @hosts4", "postrouting")), missing);
        assert_eq!(
            find(&delete("masquerade", "subnet-10.1.0.0\\/24").replace("\\/24 handle", "/24 handle").replace(
                "chain inet cni_masquerade subnet-10.1.0.0\\/24",
                "chain inet cni_masquerade subnet-10.1.0.0/24"
            )),
            format!("rule \"masquerade\" of {chain} subnet-10.1.0.0/24: expected present, found nothing")
        );
        assert_eq!(
            find(&format!("nft insert rule {INET} postrouting accept")),
            format!("rules of {chain} postrouting: expected 4 of ours, found 1 others too")
        );
        let moved = format!(
            "{}; nft insert rule {INET} postrouting ip saddr vmap @hosts4",
            delete("ip saddr vmap @hosts4", "postrouting")
        );
        assert!(find(&moved).contains("expected in its place, found behind a later one"));
        let priority =
            "nft list ruleset | sed 's/priority srcnat/priority 7/' > /run/r; nft flush ruleset; nft -f /run/r";
        assert_eq!(
            find(priority),
            format!(
                "{chain} postrouting: expected type nat hook postrouting priority 100, found type nat hook postrouting priority 7"
            )
        );
        assert_eq!(
            find(&format!("nft delete element {INET} hosts4 '{{ 10.1.0.2 }}'")),
            "masquerading of 10.1.0.2: expected present, found nothing"
        );
        let other = "nft add chain inet cni_masquerade x; nft delete element inet cni_masquerade hosts4 '{ 10.1.0.2 }'; \
             nft add element inet cni_masquerade hosts4 '{ 10.1.0.2 comment \"8e48f37d5de60467-f4d01f2ef4b92245, id: c1\" : goto x }'";
        assert_eq!(find(other), "masquerading of 10.1.0.2: expected goto subnet-10.1.0.0/24, found goto x");
    });
}

#[test]
fn check_names_a_table_that_is_asleep() {
    inside("kernel::check_names_a_table_that_is_asleep", || {
        let nft = Nftables::open().unwrap();
        let ports = [forwards("c1", "10.1.0.2/24", &["tcp 8080 80"])];
        nft.add_ports(&ports).unwrap();
        run("nft add table ip cni_ports '{ flags dormant; }'");
        let found: Vec<_> = nft.check_ports(&ports).unwrap().iter().map(ToString::to_string).collect();
        assert!(found.len() == 1 && found[0].contains("ip cni_ports") && found[0].contains("dormant"), "{found:?}");
        run("nft add table ip cni_ports");
        assert_eq!(nft.check_ports(&ports).unwrap(), [], "the way out that it names");
    });
}

#[test]
fn adding_repairs_what_somebody_removed() {
    inside("kernel::adding_repairs_what_somebody_removed", || {
        let nft = Nftables::open().unwrap();
        let intents = [masquerade("c1", "10.1.0.2", "10.1.0.0/24")];
        let ports = [forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 8080 80"])];
        for damage in [
            "nft flush ruleset",
            "nft delete table ip cni_ports",
            "nft delete chain ip cni_ports prerouting",
            "nft flush chain inet cni_masquerade postrouting; nft delete map inet cni_masquerade hosts4",
            "nft flush chain ip cni_ports postrouting; nft delete map ip cni_ports sources; nft delete chain ip cni_ports snat-local-10.1.0.0/24",
        ] {
            add_masquerade(&nft, &intents).unwrap();
            nft.add_ports(&ports).unwrap();
            run(damage);
            add_masquerade(&nft, &intents).unwrap();
            nft.add_ports(&ports).unwrap();
            let left: Vec<_> =
                nft.check_ports(&ports).unwrap().into_iter().chain(nft.check_masquerade(&intents).unwrap()).collect();
            assert_eq!(left, [], "{damage}");
        }
    });
}

#[test]
fn the_next_one_fills_what_somebody_emptied() {
    inside("kernel::the_next_one_fills_what_somebody_emptied", || {
        let nft = Nftables::open().unwrap();
        let (first, next) =
            ([masquerade("c1", "10.1.0.2", "10.1.0.0/24")], [masquerade("c2", "10.1.0.3", "10.1.0.0/24")]);
        // What leads to a chain counts in it like its rules.
        let port = [
            forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "tcp 8082 80", "tcp 8083 80"]),
            PortForwards { snat: Snat::All, ..forwards("c3", "10.1.0.4/24", &["udp 1 1", "udp 2 2"]) },
            PortForwards { conditions: vec!["tcp sport 9".to_owned()], ..forwards("c4", "10.1.0.5/24", &["udp 3 3"]) },
        ];
        let another = [forwards("c2", "10.1.0.3/24", &["tcp 8081 80"])];
        add_masquerade(&nft, &first).unwrap();
        for (id, address) in [("c3", "10.1.0.4"), ("c4", "10.1.0.5")] {
            add_masquerade(&nft, &[masquerade(id, address, "10.1.0.0/24")]).unwrap();
        }
        nft.add_ports(&port).unwrap();
        for emptied in [
            "chain inet cni_masquerade postrouting",
            "chain inet cni_masquerade subnet-10.1.0.0/24",
            "chain ip cni_ports prerouting",
            "chain ip cni_ports output",
            "chain ip cni_ports postrouting",
            "chain ip cni_ports forwards",
            "chain ip cni_ports translate",
            "chain ip cni_ports snat-all",
            "chain ip cni_ports snat-local-10.1.0.0/24",
            "table ip cni_ports",
            "table inet cni_masquerade",
        ] {
            run(&format!("nft flush {emptied}"));
            add_masquerade(&nft, &next).unwrap();
            nft.add_ports(&another).unwrap();
            let known = if emptied.starts_with("table ip ") { &port[..2] } else { &port };
            let left: Vec<_> =
                nft.check_ports(known).unwrap().into_iter().chain(nft.check_masquerade(&first).unwrap()).collect();
            assert_eq!(left, [], "{emptied}");
            // Conditions are known to their owner alone.
            nft.add_ports(&port).unwrap();
            assert_eq!(nft.check_ports(&port).unwrap(), [], "{emptied}");
            nft.remove_masquerade(&owner("c2"), &[]).unwrap();
            nft.remove_ports(&owner("c2"), &another).unwrap();
        }
    });
}

/// One addition puts back what all need, other subnets' chains included.
#[test]
fn the_next_one_repairs_an_emptied_table_for_all() {
    inside("kernel::the_next_one_repairs_an_emptied_table_for_all", || {
        let nft = Nftables::open().unwrap();
        let addresses =
            [("c1", "10.1.0.2", "10.1.0.0/24"), ("c2", "10.2.0.2", "10.2.0.0/24"), ("c3", "fd00::2", "fd00::/64")];
        let all: Vec<_> = addresses.into_iter().map(|(id, address, subnet)| masquerade(id, address, subnet)).collect();
        let ports = [
            forwards("c1", "10.1.0.2/24", &["tcp 1 1", "tcp 2 2", "tcp 3 3"]),
            forwards("c2", "10.2.0.2/24", &["tcp 4 4", "tcp 5 5", "tcp 6 6"]),
            forwards("c3", "fd00::2/64", &["tcp 1 1", "tcp 2 2", "tcp 3 3"]),
        ];
        add_masquerade(&nft, &all).unwrap();
        nft.add_ports(&ports).unwrap();
        run("nft flush table inet cni_masquerade; nft flush table ip cni_ports; nft flush table ip6 cni_ports");
        add_masquerade(&nft, &[masquerade("c4", "10.3.0.2", "10.3.0.0/24")]).unwrap();
        nft.add_ports(&[forwards("c4", "10.3.0.2/24", &["tcp 7 7"]), forwards("c4", "fd03::2/64", &["tcp 7 7"])])
            .unwrap();
        assert_eq!(nft.check_masquerade(&all).unwrap(), []);
        assert_eq!(nft.check_ports(&ports).unwrap(), []);
    });
}

#[test]
fn the_listing_can_be_loaded_again() {
    inside("kernel::the_listing_can_be_loaded_again", || {
        let nft = Nftables::open().unwrap();
        let masquerading = [masquerade("c1", "10.1.0.2", "10.1.0.0/24"), masquerade("c1", "fd00::2", "fd00::/64")];
        let mut ports = [
            forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 192.0.2.1:53 53", "sctp 5 5"]),
            forwards("c1", "fd00::2/64", &["tcp 8080 80", "udp [2001:db8::1]:53 53"]),
        ];
        ports[0].guard_localnet = true;
        add_masquerade(&nft, &masquerading).unwrap();
        nft.add_ports(&ports).unwrap();
        run(
            "nft list ruleset > /run/1; nft flush ruleset; nft -f /run/1; nft list ruleset > /run/2; cmp /run/1 /run/2",
        );
        assert_eq!(nft.check_masquerade(&masquerading).unwrap(), []);
        assert_eq!(nft.check_ports(&ports).unwrap(), []);
        nft.add_ports(&[forwards("c2", "10.1.0.3/24", &["tcp 8081 80"])]).unwrap();
        nft.remove_ports(&owner("c1"), &ports).unwrap();
        assert_eq!(elements("ip cni_ports", "ports").len(), 1);
    });
}

#[test]
fn ten_thousand_ports_are_one_transaction() {
    inside("kernel::ten_thousand_ports_are_one_transaction", || {
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
            "host port 19999 tcp is held by container c2 (eth0) of network net1: detach that first, or ask for another"
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

#[test]
fn chains_of_anybody_can_be_looked_for() {
    inside("kernel::chains_of_anybody_can_be_looked_for", || {
        let nft = Nftables::open().unwrap();
        assert!(!nft.chain_exists(TableFamily::Ip, "nat", "CNI-abc").unwrap());
        run("iptables-nft -t nat -N CNI-abc; ip6tables-nft -t nat -N CNI-def");
        assert!(nft.chain_exists(TableFamily::Ip, "nat", "CNI-abc").unwrap());
        assert!(!nft.chain_exists(TableFamily::Ip, "nat", "CNI-def").unwrap());
        assert!(nft.chain_exists(TableFamily::Ip6, "nat", "CNI-def").unwrap());
        assert!(!nft.chain_exists(TableFamily::Inet, "nat", "CNI-abc").unwrap());
    });
}

#[test]
fn many_at_once_do_not_disturb_one_another() {
    inside("kernel::many_at_once_do_not_disturb_one_another", || {
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
                        add_masquerade(&nft, &intent).attempt("add masquerade");
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
