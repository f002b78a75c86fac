//! Damage to what all owners share: CHECK names it, the next addition repairs it.

use cni_netfilter::{Nftables, PortForwards, Snat};

use crate::inside::{forwards, inside, masquerade, owner, ruleset, run};

const INET: &str = "inet cni_masquerade";

#[test]
fn check_names_what_is_wrong_with_the_shared_part() {
    inside("skeleton::check_names_what_is_wrong_with_the_shared_part", || {
        let nft = Nftables::open().unwrap();
        let intents = [masquerade("c1", "10.1.0.2", "10.1.0.0/24")];
        let find = |damage: &str| {
            run("nft flush ruleset");
            nft.add_masquerade(&intents).unwrap();
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
            format!("rules of {chain} postrouting: expected only 4 of this plugin, found 1 more")
        );
        let moved = format!(
            "{}; nft insert rule {INET} postrouting ip saddr vmap @hosts4",
            delete("ip saddr vmap @hosts4", "postrouting")
        );
        assert!(find(&moved).contains("expected before the rules that follow, found after one of them"));
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
fn check_names_a_dormant_table() {
    inside("skeleton::check_names_a_dormant_table", || {
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
fn an_addition_repairs_what_was_removed() {
    inside("skeleton::an_addition_repairs_what_was_removed", || {
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
            nft.add_masquerade(&intents).unwrap();
            nft.add_ports(&ports).unwrap();
            run(damage);
            nft.add_masquerade(&intents).unwrap();
            nft.add_ports(&ports).unwrap();
            let left: Vec<_> =
                nft.check_ports(&ports).unwrap().into_iter().chain(nft.check_masquerade(&intents).unwrap()).collect();
            assert_eq!(left, [], "{damage}");
        }
    });
}

#[test]
fn the_next_addition_fills_what_was_emptied() {
    inside("skeleton::the_next_addition_fills_what_was_emptied", || {
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
        nft.add_masquerade(&first).unwrap();
        for (id, address) in [("c3", "10.1.0.4"), ("c4", "10.1.0.5")] {
            nft.add_masquerade(&[masquerade(id, address, "10.1.0.0/24")]).unwrap();
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
            nft.add_masquerade(&next).unwrap();
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
fn an_addition_repairs_an_emptied_table_for_all_owners() {
    inside("skeleton::an_addition_repairs_an_emptied_table_for_all_owners", || {
        let nft = Nftables::open().unwrap();
        let addresses =
            [("c1", "10.1.0.2", "10.1.0.0/24"), ("c2", "10.2.0.2", "10.2.0.0/24"), ("c3", "fd00::2", "fd00::/64")];
        let all: Vec<_> = addresses.into_iter().map(|(id, address, subnet)| masquerade(id, address, subnet)).collect();
        let ports = [
            forwards("c1", "10.1.0.2/24", &["tcp 1 1", "tcp 2 2", "tcp 3 3"]),
            forwards("c2", "10.2.0.2/24", &["tcp 4 4", "tcp 5 5", "tcp 6 6"]),
            forwards("c3", "fd00::2/64", &["tcp 1 1", "tcp 2 2", "tcp 3 3"]),
        ];
        nft.add_masquerade(&all).unwrap();
        nft.add_ports(&ports).unwrap();
        run("nft flush table inet cni_masquerade; nft flush table ip cni_ports; nft flush table ip6 cni_ports");
        nft.add_masquerade(&[masquerade("c4", "10.3.0.2", "10.3.0.0/24")]).unwrap();
        nft.add_ports(&[forwards("c4", "10.3.0.2/24", &["tcp 7 7"]), forwards("c4", "fd03::2/64", &["tcp 7 7"])])
            .unwrap();
        assert_eq!(nft.check_masquerade(&all).unwrap(), []);
        assert_eq!(nft.check_ports(&ports).unwrap(), []);
    });
}

#[test]
fn the_guard_of_the_loopback_addresses_is_repaired() {
    inside("skeleton::the_guard_of_the_loopback_addresses_is_repaired", || {
        let nft = Nftables::open().unwrap();
        nft.add_localnet_guard().unwrap();
        assert_eq!(nft.check_localnet_guard().unwrap(), []);
        assert!(ruleset().contains("chain guard"));
        for damage in
            ["flush ruleset", "flush chain ip cni_localnet guard", "add table ip cni_localnet { flags dormant; }"]
        {
            run(&format!("nft '{damage}'"));
            assert!(!nft.check_localnet_guard().unwrap().is_empty(), "{damage}");
            nft.add_localnet_guard().unwrap();
            assert_eq!(nft.check_localnet_guard().unwrap(), [], "{damage}");
        }
        assert!(!ruleset().contains("dormant"));
    });
}
