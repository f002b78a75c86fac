//! The iptables backend against the kernel, in both variants of the tools.

use crate::inside::*;
use cni_netfilter::iptables::{Iptables, legacy_in_use};
use cni_plugin::{Family, Protocol};

fn tools() -> Iptables {
    Iptables::find().unwrap()
}

#[test]
fn the_variant_is_the_one_asked_for() {
    in_either_variant("rules::the_variant_is_the_one_asked_for", || {
        let expected = if variant() == "nft" { "(nf_tables)" } else { "(legacy)" };
        assert!(run("iptables", &["-V"]).contains(expected));
        assert!(!legacy_in_use(Family::V4, "nat"));
        assert!(tools().usable(Family::V4) && tools().usable(Family::V6));
        run("iptables", &["-w", "-t", "nat", "-S"]);
        assert_eq!(legacy_in_use(Family::V4, "nat"), variant() == "legacy");
        assert!(!legacy_in_use(Family::V6, "nat"));
    });
}

#[test]
fn masquerade_comes_and_goes() {
    in_either_variant("rules::masquerade_comes_and_goes", || {
        let (tools, me) = (tools(), owner("c1", "eth0"));
        let wanted = [masquerade(&me, "10.1.0.2/24"), masquerade(&me, "10.2.0.2/24"), masquerade(&me, "fd00::2/64")];
        let empty = dump_nat();
        tools.add_masquerade(&wanted).unwrap();
        let added = dump_nat();
        assert!(tools.check_masquerade(&wanted).unwrap().is_empty());
        tools.add_masquerade(&wanted).unwrap();
        assert_eq!(dump_nat(), added, "a second ADD changes nothing");

        run("iptables", &["-w", "-t", "nat", "-D", "POSTROUTING", "2"]);
        let missing = tools.check_masquerade(&wanted).unwrap();
        assert_eq!(missing.len(), 1);
        assert!(missing[0].thing.contains("-A POSTROUTING -s 10.2.0.2/32"), "{}", missing[0]);
        tools.add_masquerade(&wanted).unwrap();
        assert_eq!(dump_nat(), added, "what was missing is back");

        let hints = ["10.1.0.2/24", "10.2.0.2/24", "fd00::2/64"].map(|hint| hint.parse().unwrap());
        tools.remove_masquerade(&me, &hints).unwrap();
        assert_eq!(dump_nat(), empty);
        tools.remove_masquerade(&me, &hints).unwrap();
        tools.remove_masquerade(&me, &[]).unwrap();

        tools.add_masquerade(&wanted).unwrap();
        tools.remove_masquerade(&me, &[]).unwrap();
        assert_eq!(dump_nat(), empty, "without hints too");
    });
}

#[test]
fn ports_come_and_go() {
    in_either_variant("rules::ports_come_and_go", || {
        let (tools, me) = (tools(), owner("c1", "eth0"));
        let many = (0..17).map(|n| port(Protocol::Tcp, 8000 + n, "10.1.0.2:80")).collect();
        let mut four = ports(&me, "10.1.0.2/24", many);
        four.ports.push(port(Protocol::Udp, 53, "10.1.0.2:53"));
        let six = ports(&me, "fd00::2/64", vec![port(Protocol::Sctp, 99, "[fd00::2]:98")]);
        let wanted = [four, six];
        tools.add_ports(&wanted).unwrap();
        let added = dump_nat();
        assert_eq!(tools.check_ports(&wanted).unwrap().differences, []);
        tools.add_ports(&wanted).unwrap();
        assert_eq!(dump_nat(), added, "a second ADD changes nothing");

        tools.remove_ports(&me, &wanted).unwrap();
        let skeleton = dump_nat();
        assert!(!skeleton.contains("CNI-DN-"), "{skeleton}");
        tools.remove_ports(&me, &wanted).unwrap();
        tools.remove_ports(&me, &[]).unwrap();
        tools.add_ports(&wanted).unwrap();
        assert_eq!(dump_nat(), added, "into an existing skeleton");
        tools.remove_ports(&me, &[]).unwrap();
        assert_eq!(dump_nat(), skeleton, "without hints too");
    });
}

#[test]
fn a_damaged_skeleton_is_reported_and_repaired() {
    in_either_variant("rules::a_damaged_skeleton_is_reported_and_repaired", || {
        let tools = tools();
        let intent = |id: &str, number| {
            [ports(&owner(id, "eth0"), "10.1.0.2/24", vec![port(Protocol::Tcp, number, "10.1.0.2:80")])]
        };
        tools.add_ports(&intent("c1", 8080)).unwrap();
        for damage in [
            "-t nat -F PREROUTING",
            "-t nat -F OUTPUT",
            "-t nat -F POSTROUTING",
            "-t nat -F CNI-HOSTPORT-SETMARK",
            "-t nat -F CNI-HOSTPORT-MASQ",
            "-t nat -F CNI-HOSTPORT-DNAT",
        ] {
            let before = dump_nat();
            let args: Vec<&str> = ["-w"].into_iter().chain(damage.split(' ')).collect();
            run("iptables", &args);
            let found = tools.check_ports(&intent("c1", 8080)).unwrap().differences;
            assert!(!found.is_empty(), "{damage}");
            tools.add_ports(&intent("c2", 8081)).unwrap();
            assert!(tools.check_ports(&intent("c2", 8081)).unwrap().differences.is_empty(), "{damage}");
            tools.add_ports(&intent("c1", 8080)).unwrap();
            tools.remove_ports(&owner("c2", "eth0"), &[]).unwrap();
            assert_eq!(dump_nat(), before, "{damage}");
        }
        run("iptables", &["-w", "-t", "nat", "-F"]);
        run("iptables", &["-w", "-t", "nat", "-X"]);
        assert_eq!(tools.check_ports(&intent("c1", 8080)).unwrap().differences.len(), 9);
    });
}

#[test]
fn two_interfaces_of_a_container_keep_apart() {
    in_either_variant("rules::two_interfaces_of_a_container_keep_apart", || {
        let tools = tools();
        let (first, second) = (owner("c1", "eth0"), owner("c1", "eth1"));
        let intents = |owner, address: &str, host_port| {
            let to = format!("{}:80", address.trim_end_matches("/24"));
            ([masquerade(owner, address)], [ports(owner, address, vec![port(Protocol::Tcp, host_port, &to)])])
        };
        let (masq1, ports1) = intents(&first, "10.1.0.2/24", 8080);
        let (masq2, ports2) = intents(&second, "10.1.0.3/24", 8081);
        tools.add_masquerade(&masq1).unwrap();
        tools.add_ports(&ports1).unwrap();
        let alone = dump_nat();
        for hinted in [true, false] {
            tools.add_masquerade(&masq2).unwrap();
            tools.add_ports(&ports2).unwrap();
            let both = dump_nat();
            tools.add_masquerade(&masq2).unwrap();
            tools.add_ports(&ports2).unwrap();
            assert_eq!(dump_nat(), both);
            assert!(tools.check_masquerade(&masq2).unwrap().is_empty());
            assert!(tools.check_ports(&ports2).unwrap().differences.is_empty());
            let masq_hint = ["10.1.0.3/24".parse().unwrap()];
            tools.remove_masquerade(&second, if hinted { &masq_hint } else { &[] }).unwrap();
            tools.remove_ports(&second, if hinted { &ports2 } else { &[] }).unwrap();
            assert_eq!(dump_nat(), alone, "the first interface's rules are untouched");
        }
        tools.add_masquerade(&masq2).unwrap();
        tools.add_ports(&ports2).unwrap();
        tools.remove_masquerade(&first, &["10.1.0.2/24".parse().unwrap()]).unwrap();
        tools.remove_ports(&first, &ports1).unwrap();
        assert!(tools.check_masquerade(&masq2).unwrap().is_empty());
        assert!(tools.check_ports(&ports2).unwrap().differences.is_empty());
        assert!(!tools.check_ports(&ports1).unwrap().differences.is_empty());
    });
}

#[test]
fn only_the_invalid_of_the_network_are_collected() {
    in_either_variant("rules::only_the_invalid_of_the_network_are_collected", || {
        let tools = tools();
        let mut elsewhere = owner("c3", "eth0");
        elsewhere.network = "test-net2".parse().unwrap();
        let owners = [owner("c1", "eth0"), owner("c1", "eth1"), owner("c2", "eth0"), elsewhere];
        let mut states = Vec::new();
        for (n, owner) in (1..).zip(&owners) {
            let (four, six) = (format!("10.1.0.{n}/24"), format!("fd00::{n}/64"));
            tools.add_masquerade(&[masquerade(owner, &four), masquerade(owner, &six)]).unwrap();
            let forward = port(Protocol::Tcp, 8000 + n, &format!("10.1.0.{n}:80"));
            tools.add_ports(&[ports(owner, &four, vec![forward])]).unwrap();
            states.push(dump_nat());
        }
        let valid = [owners[0].clone(), owners[1].clone(), owners[2].clone()];
        tools.retain_masquerade(&owners[0].network, &valid).unwrap();
        tools.retain_ports(&owners[0].network, &valid).unwrap();
        assert_eq!(dump_nat(), states[3], "nothing to collect");
        tools.retain_masquerade(&owners[0].network, &valid[..1]).unwrap();
        tools.retain_ports(&owners[0].network, &valid[..1]).unwrap();
        let left = dump_nat();
        for (address, stays) in [("10.1.0.1", true), ("10.1.0.2", false), ("10.1.0.3", false), ("10.1.0.4", true)] {
            assert_eq!(left.contains(address), stays, "{address}\n{left}");
        }
        for (address, stays) in [("fd00::1", true), ("fd00::2", false), ("fd00::3", false), ("fd00::4", true)] {
            assert_eq!(left.contains(address), stays, "{address}\n{left}");
        }
    });
}

#[test]
fn the_guard_asks_for_no_interface_and_repairs_a_former_one() {
    in_either_variant("rules::the_guard_asks_for_no_interface_and_repairs_a_former_one", || {
        let tools = tools();
        // As earlier versions made it.
        for args in [
            "-N CNI-HOSTPORT-GUARD",
            "-A CNI-HOSTPORT-GUARD -i cni0 -m comment --comment guard -j DROP",
            "-A PREROUTING -s 127.0.0.0/8 ! -i lo -j CNI-HOSTPORT-GUARD",
            "-A PREROUTING -d 127.0.0.0/8 ! -i lo -j CNI-HOSTPORT-GUARD",
        ] {
            run("iptables", &["-w", "-t", "raw"].into_iter().chain(args.split(' ')).collect::<Vec<_>>());
        }
        assert_eq!(tools.check_localnet_guard().unwrap().len(), 1);
        tools.add_localnet_guard().unwrap();
        let whole = dump("iptables", "raw");
        assert_eq!(whole.matches("-A PREROUTING").count(), 2, "what every packet passes");
        assert_eq!(tools.check_localnet_guard().unwrap(), []);
        tools.add_localnet_guard().unwrap();
        assert_eq!(dump("iptables", "raw"), whole, "a second time changes nothing");
        for damage in ["-F PREROUTING", "-F CNI-HOSTPORT-GUARD"] {
            run("iptables", &["-w", "-t", "raw"].into_iter().chain(damage.split(' ')).collect::<Vec<_>>());
            assert!(!tools.check_localnet_guard().unwrap().is_empty(), "{damage}");
            tools.add_localnet_guard().unwrap();
            assert_eq!(tools.check_localnet_guard().unwrap(), [], "{damage}");
        }
        for (chain, rule) in [("CNI-HOSTPORT-GUARD", "-j RETURN"), ("PREROUTING", "-j ACCEPT")] {
            run("iptables", &["-w", "-t", "raw", "-I", chain].into_iter().chain(rule.split(' ')).collect::<Vec<_>>());
            let found = tools.check_localnet_guard().unwrap();
            assert_eq!(found[0].thing, format!("iptables -t raw -A {chain} {rule}"));
            run("iptables", &["-w", "-t", "raw", "-D", chain].into_iter().chain(rule.split(' ')).collect::<Vec<_>>());
        }
    });
}
