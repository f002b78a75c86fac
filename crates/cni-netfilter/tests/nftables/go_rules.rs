//! What the Go plugins left in their own tables.

use cni_netfilter::{Masquerade, Nftables};

use crate::inside::{inside, masquerade, owner, owner_in, ruleset, run};

#[test]
fn rules_of_the_go_plugins_go_with_their_owner() {
    inside("go_rules::rules_of_the_go_plugins_go_with_their_owner", || {
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
            rule("10.1.0.5", "not a Go plugin's")
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
        assert_eq!((left("id: c1"), left("id: c2"), left("not a Go plugin's")), (1, 1, 1), "{}", ruleset());
        nft.remove_ports(&owner("c1"), &[]).unwrap();
        assert_eq!((left("\"c1\""), left("\"c12\"")), (0, 2), "{}", ruleset());
        nft.retain_masquerade(&owner("c1").network, &[]).unwrap();
        assert_eq!((left("id: c1"), left("id: c2"), left("not a Go plugin's")), (1, 0, 1), "{}", ruleset());
    });
}

#[test]
fn masquerading_of_the_go_plugins_passes_check() {
    inside("go_rules::masquerading_of_the_go_plugins_passes_check", || {
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
