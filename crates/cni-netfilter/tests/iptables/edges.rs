//! The iptables backend when something is in its way or out of the ordinary, in both variants of the tools.

use std::collections::BTreeSet;

use crate::inside::*;
use cni_netfilter::iptables::{Iptables, IptablesError};
use cni_netfilter::{MarkChain, PortForward, Snat};
use cni_plugin::{Family, Protocol};

fn tools() -> Iptables {
    Iptables::find().unwrap()
}

#[test]
fn a_held_port_is_refused_by_name() {
    in_either_variant("edges::a_held_port_is_refused_by_name", || {
        let tools = tools();
        let publish = |id: &str, host_ip: Option<&str>| {
            let mut forward = port(Protocol::Tcp, 8080, "10.1.0.2:80");
            forward.host_ip = host_ip.map(|ip| ip.parse().unwrap());
            tools.add_ports(&[ports(&owner(id, "eth0"), "10.1.0.2/24", vec![forward])])
        };
        publish("c1", Some("192.0.2.1")).unwrap();
        publish("c2", Some("192.0.2.2")).unwrap();
        let before = dump_nat();
        for address in [None, Some("0.0.0.0"), Some("192.0.2.2")] {
            let error = publish("c3", address).unwrap_err();
            assert!(matches!(error, IptablesError::PortHeld { port: 8080, .. }), "{error}");
            let (at, id) = if address == Some("192.0.2.2") { ("192.0.2.2", "c2") } else { ("192.0.2.1", "c1") };
            assert_eq!(
                error.to_string(),
                format!(
                    "host port {at}:8080 tcp is held by container {id} (eth0) of network test-net: \
                     detach that container first, or request another one"
                )
            );
            assert_eq!(dump_nat(), before, "nothing is left of the refused ADD");
        }
        publish("c1", Some("192.0.2.1")).unwrap();
        assert_eq!(dump_nat(), before, "a holder isn't in its own way");
        let udp = ports(&owner("c3", "eth0"), "10.1.0.2/24", vec![port(Protocol::Udp, 8080, "10.1.0.2:80")]);
        tools.add_ports(&[udp]).unwrap();
    });
}

#[test]
fn conditions_are_matched_and_checked() {
    in_either_variant("edges::conditions_are_matched_and_checked", || {
        let tools = tools();
        let with = |conditions: &[&str]| {
            let mut intent = ports(&owner("c1", "eth0"), "10.1.0.2/24", vec![port(Protocol::Tcp, 80, "10.1.0.2:80")]);
            intent.conditions = conditions.iter().map(|&arg| arg.to_owned()).collect();
            intent.snat = Snat::All;
            intent.mark = MarkChain::Bit(31);
            [intent]
        };
        let mine = with(&["!", "-s", "192.0.2.0/24", "-m", "conntrack", "--ctstate", "NEW"]);
        tools.add_ports(&mine).unwrap();
        assert!(tools.check_ports(&mine).unwrap().differences.is_empty());
        assert!(dump_nat().contains("0x80000000/0x80000000"));
        let found = tools.check_ports(&with(&["!", "-s", "198.51.100.0/24"])).unwrap().differences;
        assert_eq!(found.len(), 1, "{found:?}");
        let chain = dump_nat().split_whitespace().find_map(|word| word.strip_prefix(":CNI-DN-").map(str::to_owned));
        // The words in which Go asks for `masqAll`.
        let asks =
            format!("-w -t nat -C CNI-DN-{} -p tcp --dport 80 -s 0.0.0.0/0 -j CNI-HOSTPORT-SETMARK", chain.unwrap());
        run("iptables", &asks.split(' ').collect::<Vec<_>>());
        let before = dump_nat();
        tools.add_ports(&mine).unwrap();
        assert_eq!(dump_nat(), before);
        tools.remove_ports(&owner("c1", "eth0"), &mine).unwrap();
        assert!(!dump_nat().contains("CNI-DN"));

        for hostile in ["x\n-F CNI-HOSTPORT-DNAT", "-t", "--frobnicate"] {
            let before = dump_nat();
            assert!(tools.add_ports(&with(&["-m", "comment", "--comment", "c", hostile])).is_err(), "{hostile:?}");
            assert_eq!(dump_nat(), before);
        }
        let odd = with(&["-m", "comment", "--comment", r#"a"b\c '$(x)' -F # é"#]);
        tools.add_ports(&odd).unwrap();
        assert!(tools.check_ports(&odd).unwrap().differences.is_empty());
        tools.remove_ports(&owner("c1", "eth0"), &[]).unwrap();
        assert!(!dump_nat().contains("CNI-DN"));
    });
}

#[test]
fn an_external_chain_marks_and_nothing_of_ours_does() {
    in_either_variant("edges::an_external_chain_marks_and_nothing_of_ours_does", || {
        let (tools, me) = (tools(), owner("c1", "eth0"));
        let mut intent = ports(&me, "10.1.0.2/24", vec![port(Protocol::Tcp, 80, "10.1.0.2:80")]);
        intent.mark = MarkChain::External("KUBE-MARK-MASQ".to_owned());
        let error = tools.add_ports(std::slice::from_ref(&intent)).unwrap_err();
        assert!(error.to_string().contains("KUBE-MARK-MASQ"), "{error}");
        assert!(!dump_nat().contains("CNI-DN"));
        run("iptables", &["-w", "-t", "nat", "-N", "KUBE-MARK-MASQ"]);
        tools.add_ports(std::slice::from_ref(&intent)).unwrap();
        assert!(tools.check_ports(std::slice::from_ref(&intent)).unwrap().differences.is_empty());
        assert!(!dump_nat().contains("SETMARK"));
    });
}

#[test]
fn ipv4_needs_no_ip6tables_and_ipv6_says_so() {
    in_either_variant("edges::ipv4_needs_no_ip6tables_and_ipv6_says_so", || {
        let folder = tempfile::tempdir().unwrap();
        for verb in ["", "-save", "-restore"] {
            let tool = format!("/usr/sbin/iptables-{}{verb}", variant());
            std::os::unix::fs::symlink(tool, folder.path().join(format!("iptables{verb}"))).unwrap();
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "edges::inside_without_ip6tables", "--nocapture", "--ignored"])
            .env("PATH", folder.path())
            .status()
            .unwrap();
        assert!(status.success());
    });
}

#[test]
#[ignore = "started by ipv4_needs_no_ip6tables_and_ipv6_says_so with a PATH of its own"]
fn inside_without_ip6tables() {
    if !cni_testing::private::is_inside() {
        return;
    }
    let (tools, me) = (tools(), owner("c1", "eth0"));
    let (four, six) = (masquerade(&me, "10.1.0.2/24"), masquerade(&me, "fd00::2/64"));
    tools.add_masquerade(std::slice::from_ref(&four)).unwrap();
    assert!(tools.check_masquerade(std::slice::from_ref(&four)).unwrap().is_empty());
    tools.remove_masquerade(&me, &[]).unwrap();
    tools.retain_masquerade(&me.network, &[]).unwrap();
    assert!(!tools.usable(Family::V6));
    let error = tools.add_masquerade(&[four.clone(), six]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ip6tables-restore is not in PATH: install the package iptables, or set the backend to nftables"
    );
    assert_eq!(tools.check_masquerade(&[four]).unwrap().len(), 3, "the other family's rules were taken back");
}

/// Ports are added under a lock, as portmap's: iptables-nft repeats a transaction that another one made stale, and two that
/// have seen that the skeleton is missing would both append it.
#[test]
fn many_at_once_build_one_skeleton() {
    in_either_variant("edges::many_at_once_build_one_skeleton", || {
        let tools = tools();
        let turn = &std::sync::Mutex::new(());
        std::thread::scope(|scope| {
            for n in 0..12u16 {
                let tools = &tools;
                scope.spawn(move || {
                    let me = owner(&format!("c{n}"), "eth0");
                    let forward = port(Protocol::Tcp, 8000 + n, "10.1.0.2:80");
                    let intent = [ports(&me, "10.1.0.2/24", vec![forward])];
                    let masquerade = [masquerade(&me, &format!("10.1.0.{}/24", n + 2))];
                    tools.add_masquerade(&masquerade).unwrap();
                    let held = turn.lock().unwrap();
                    tools.add_ports(&intent).unwrap();
                    drop(held);
                    assert!(tools.check_ports(&intent).unwrap().differences.is_empty());
                    if n % 2 == 1 {
                        tools.remove_ports(&me, &intent).unwrap();
                        tools.remove_masquerade(&me, &["10.1.0.2/24".parse().unwrap()]).unwrap();
                    }
                });
            }
        });
        let nat = dump("iptables", "nat");
        assert_eq!(nat.matches("-A CNI-HOSTPORT-DNAT").count(), 6, "{nat}");
        assert_eq!(nat.matches("-A POSTROUTING -s").count(), 6, "{nat}");
        for rule in ["-A PREROUTING", "-A OUTPUT", "-A CNI-HOSTPORT-MASQ", "-A CNI-HOSTPORT-SETMARK"] {
            assert_eq!(nat.matches(rule).count(), 1, "{rule}\n{nat}");
        }
    });
}

/// Under a lock for the same reason: what is repeated doesn't list again.
#[test]
fn of_many_that_want_a_port_one_gets_it() {
    in_either_variant("edges::of_many_that_want_a_port_one_gets_it", || {
        let tools = tools();
        let turn = std::sync::Mutex::new(());
        let publish = |id: String| {
            let _turn = turn.lock().unwrap();
            let forward = port(Protocol::Tcp, 8080, "10.1.0.2:80");
            tools.add_ports(&[ports(&owner(&id, "eth0"), "10.1.0.2/24", vec![forward])])
        };
        let forward = port(Protocol::Udp, 1, "10.1.0.2:80");
        tools.add_ports(&[ports(&owner("first", "eth0"), "10.1.0.2/24", vec![forward])]).unwrap();
        let publish = &publish;
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || publish(format!("c{n}")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(dump_nat().matches("--dports 8080").count(), winners);
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!(matches!(error, IptablesError::PortHeld { .. }), "{error}");
        }
        assert_eq!(winners, 1);
    });
}

/// What was published for a holder that is gone is returned, for the connections to it.
#[test]
fn the_evicted_lose_all_their_ports() {
    in_either_variant("edges::the_evicted_lose_all_their_ports", || {
        let tools = tools();
        let with = |id: &str, list: &[PortForward]| [ports(&owner(id, "eth0"), "10.1.0.2/24", list.to_vec())];
        let row = (0..70).map(|n| port(Protocol::Udp, 9000 + n, &format!("10.1.0.2:{}", 100 + n)));
        let gos: Vec<PortForward> = [port(Protocol::Tcp, 8080, "10.1.0.2:80")].into_iter().chain(row).collect();
        let mut dead = with("dead", &gos);
        dead[0].link = Some(4711);
        tools.add_ports(&dead).unwrap();
        let evicted = tools.add_ports(&with("new", &[port(Protocol::Tcp, 8080, "10.1.0.3:80")])).unwrap();
        assert_eq!(evicted.len(), 1);
        assert_eq!(evicted[0].holder, "container dead (eth0) of network test-net");
        assert_eq!(evicted[0].ports.iter().collect::<BTreeSet<_>>(), gos.iter().collect());
    });
}

/// What the runtime says at DEL may be less than it said at ADD.
#[test]
fn a_family_without_a_hint_is_cleaned_too() {
    in_either_variant("edges::a_family_without_a_hint_is_cleaned_too", || {
        let (tools, me) = (tools(), owner("c1", "eth0"));
        let four = ports(&me, "10.1.0.2/24", vec![port(Protocol::Tcp, 8080, "10.1.0.2:80")]);
        let six = ports(&me, "fd00::2/64", vec![port(Protocol::Tcp, 8080, "[fd00::2]:80")]);
        for hint in [&four, &six] {
            tools.add_ports(&[four.clone(), six.clone()]).unwrap();
            let unhinted = tools.remove_ports(&me, std::slice::from_ref(hint)).unwrap();
            assert!(!dump_nat().contains("CNI-DN"), "{}", dump_nat());
            let other = if hint == &four { &six } else { &four };
            assert_eq!(unhinted, other.ports, "what had to be read");
        }
        // And is left alone, without a process, where nothing can be; with legacy rules there, it might be.
        let hint = std::slice::from_ref(&four);
        tools.add_ports(hint).unwrap();
        let started = started_by(|| tools.remove_ports(&me, hint).unwrap());
        assert!(variant() == "legacy" || started == ["iptables-restore"], "{started:?}");
    });
}

#[test]
fn a_thousand_ports_are_one_transaction() {
    in_either_variant("edges::a_thousand_ports_are_one_transaction", || {
        let (tools, me) = (tools(), owner("c1", "eth0"));
        let many = (0..1000).map(|n| port(Protocol::Udp, 20000 + n, "10.1.0.2:53")).collect();
        let intent = [ports(&me, "10.1.0.2/24", many)];
        tools.add_ports(&intent).unwrap();
        tools.add_ports(&intent).unwrap();
        assert!(tools.check_ports(&intent).unwrap().differences.is_empty());
        assert_eq!(dump("iptables", "nat").matches("-A CNI-HOSTPORT-DNAT").count(), 67);
        tools.remove_ports(&me, &intent).unwrap();
        assert!(!dump_nat().contains("CNI-DN"));
    });
}

#[test]
fn an_add_and_a_del_are_one_process_a_family() {
    in_either_variant("edges::an_add_and_a_del_are_one_process_a_family", || {
        let (tools, me) = (tools(), owner("c1", "eth0"));
        let masquerades = [masquerade(&me, "10.1.0.2/24"), masquerade(&me, "fd00::2/64")];
        let hints = ["10.1.0.2/24", "fd00::2/64"].map(|hint| hint.parse().unwrap());
        let publish = |id: &str, number: u16| {
            let owner = owner(id, "eth0");
            let four = port(Protocol::Tcp, number, "10.1.0.2:80");
            let six = port(Protocol::Tcp, number, "[fd00::2]:80");
            [ports(&owner, "10.1.0.2/24", vec![four]), ports(&owner, "fd00::2/64", vec![six])]
        };
        tools.add_ports(&publish("first", 8000)).unwrap();
        let one_each = ["ip6tables-restore", "iptables-restore"];
        assert_eq!(started_by(|| tools.add_masquerade(&masquerades).unwrap()), one_each);
        assert_eq!(started_by(|| tools.add_ports(&publish("c1", 8080)).unwrap()), one_each);
        assert_eq!(started_by(|| tools.remove_ports(&me, &publish("c1", 8080)).unwrap()), one_each);
        assert_eq!(started_by(|| tools.remove_masquerade(&me, &hints).unwrap()), one_each);
        assert!(started_by(|| assert!(Iptables::find().is_ok())).is_empty());
        tools.add_localnet_guard().unwrap();
        assert_eq!(started_by(|| tools.add_localnet_guard().unwrap()), ["iptables-restore"]);
    });
}
