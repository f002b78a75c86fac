//! CHECK of published ports with iptables: what is added, moved or taken away, in both variants of the tools.

use std::time::{Duration, Instant};

use crate::inside::*;
use cni_netfilter::PortForwards;
use cni_netfilter::iptables::Iptables;
use cni_plugin::Protocol;

fn tools() -> Iptables {
    Iptables::find().unwrap()
}

fn iptables(args: &str) {
    run("iptables", &["-w"].into_iter().chain(args.split(' ')).collect::<Vec<_>>());
}

/// One container behind `cni0`, and a neighbour whose rules come first.
fn published() -> [PortForwards; 1] {
    let neighbour = ports(&owner("c0", "eth0"), "10.1.0.9/24", vec![port(Protocol::Tcp, 1, "10.1.0.9:1")]);
    tools().add_ports(&[neighbour]).unwrap();
    let list = vec![port(Protocol::Tcp, 8080, "10.1.0.2:80"), port(Protocol::Udp, 53, "10.1.0.2:53")];
    let mut mine = ports(&owner("c1", "eth0"), "10.1.0.2/24", list);
    mine.link = Some(7);
    tools().add_ports(std::slice::from_ref(&mine)).unwrap();
    [mine]
}

/// The container's own chain.
fn chain() -> String {
    let nat = dump("iptables", "nat");
    let rule = nat.lines().find(|line| line.contains("10.1.0.2:80")).unwrap();
    rule.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn what_takes_packets_first_is_named() {
    in_either_variant("check::what_takes_packets_first_is_named", || {
        let mine = published();
        assert_eq!(tools().check_ports(&mine).unwrap().differences, []);
        let own = chain();
        for (table, chain, rule) in [
            ("nat", own.as_str(), "-j ACCEPT"),
            ("nat", &own, "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.3:80"),
            ("nat", "CNI-HOSTPORT-DNAT", "-j RETURN"),
            ("nat", "CNI-HOSTPORT-DNAT", "-p udp -m udp --dport 1:100 -j RETURN"),
            ("nat", "CNI-HOSTPORT-SETMARK", "-j RETURN"),
            ("nat", "CNI-HOSTPORT-MASQ", "-m mark --mark 0x2000/0x2000 -j ACCEPT"),
            ("nat", "OUTPUT", "-m addrtype --dst-type LOCAL -j ACCEPT"),
        ] {
            iptables(&format!("-t {table} -I {chain} {rule}"));
            let found = tools().check_ports(&mine).unwrap().differences;
            let named = format!("iptables -t {table} -A {chain} {rule}");
            assert_eq!(found.iter().map(|found| found.thing.as_str()).collect::<Vec<_>>(), [&named]);
            iptables(&format!("-t {table} -D {chain} {rule}"));
        }
        assert_eq!(tools().check_ports(&mine).unwrap().differences, []);
    });
}

#[test]
fn what_others_have_of_their_own_is_not() {
    in_either_variant("check::what_others_have_of_their_own_is_not", || {
        let mine = published();
        iptables("-t nat -N OTHERS");
        for (table, chain, rule) in [
            ("nat", "CNI-HOSTPORT-DNAT", "-s 192.0.2.0/24 -j RETURN"),
            ("nat", "CNI-HOSTPORT-DNAT", "-p tcp -m tcp --dport 9000 -j RETURN"),
            ("nat", "CNI-HOSTPORT-DNAT", "-p sctp -j RETURN"),
            ("nat", "PREROUTING", "-j OTHERS"),
            ("nat", "PREROUTING", "-i docker0 -j RETURN"),
            ("nat", "POSTROUTING", "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"),
            ("raw", "PREROUTING", "-p udp -m udp --dport 53 -j CT --notrack"),
        ] {
            iptables(&format!("-t {table} -I {chain} {rule}"));
            assert_eq!(tools().check_ports(&mine).unwrap().differences, [], "{chain} {rule}");
        }
        iptables(&format!("-t nat -A {} -j ACCEPT", chain()));
        iptables("-t nat -A CNI-HOSTPORT-DNAT -j RETURN");
        assert_eq!(tools().check_ports(&mine).unwrap().differences, [], "behind ours");
    });
}

#[test]
fn what_is_moved_or_gone_is_named() {
    in_either_variant("check::what_is_moved_or_gone_is_named", || {
        let mine = published();
        let own = chain();
        let dnat = "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80";
        iptables(&format!("-t nat -D {own} {dnat}"));
        iptables(&format!("-t nat -I {own} {dnat}"));
        let found = tools().check_ports(&mine).unwrap().differences;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].thing, format!("iptables -t nat chain {own}, rule 1"));
        assert!(found[0].expected.contains("SETMARK") && found[0].found.contains(dnat), "{}", found[0]);
        tools().add_ports(&mine).unwrap();
        assert_eq!(tools().check_ports(&mine).unwrap().differences, [], "ADD puts it right");
        for (n, lost) in [(8, "link: 7"), (7, "id: c1, if: eth0"), (6, "10.1.0.2:53")] {
            iptables(&format!("-t nat -D {own} {n}"));
            let found = tools().check_ports(&mine).unwrap().differences;
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].thing.contains(lost), "{}", found[0]);
            tools().add_ports(&mine).unwrap();
            assert_eq!(tools().check_ports(&mine).unwrap().differences, []);
        }
    });
}

/// Ports that make no row: a comparison of all with all would take minutes.
#[test]
fn thousands_of_scattered_ports_are_compared_in_one_pass() {
    in_either_variant("check::thousands_of_scattered_ports_are_compared_in_one_pass", || {
        let list = (0..3000u16).rev().map(|n| port(Protocol::Tcp, 20_000 + 2 * n, "10.1.0.2:80")).collect();
        let intent = [ports(&owner("c1", "eth0"), "10.1.0.2/24", list)];
        tools().add_ports(&intent).unwrap();
        let begin = Instant::now();
        assert_eq!(tools().check_ports(&intent).unwrap().differences, []);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}
