//! The iptables backend and the Go plugins on the same rules, in both variants of the tools.

use crate::inside::*;
use cni_netfilter::iptables::Iptables;
use cni_netfilter::{MarkChain, PortForward, PortForwards, Snat};
use cni_plugin::Protocol;
use serde_json::{Value, json};

/// A container's result, as bridge would return it.
fn result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/c1" }],
        "ips": [{ "address": "10.77.0.2/24", "interface": 0 }, { "address": "fd77::2/64", "interface": 0 }],
    })
}

fn portmap(mappings: &Value, keys: &Value, result: &Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.0.0", "name": "test-net", "type": "portmap", "prevResult": result,
        "runtimeConfig": { "portMappings": mappings },
    });
    let object = config.as_object_mut().unwrap();
    object.extend(keys.as_object().unwrap().clone());
    config
}

/// The same as data for Go and for us: mappings with every protocol, more than one multiport rule, and a host address.
fn story(keys: &Value, change: impl Fn(&mut PortForwards)) -> (Value, Vec<PortForwards>) {
    let me = owner("c1", "eth0");
    let mut mappings: Vec<Value> = Vec::new();
    let (mut four, mut six) = (Vec::new(), Vec::new());
    let list = (8000..8017).map(|n| (Protocol::Tcp, n)).chain([(Protocol::Udp, 53), (Protocol::Sctp, 99)]);
    for (protocol, number) in list {
        mappings.push(json!({ "hostPort": number, "containerPort": 80, "protocol": protocol.to_string() }));
        four.push(port(protocol, number, "10.77.0.2:80"));
        six.push(port(protocol, number, "[fd77::2]:80"));
    }
    let mut intents = vec![ports(&me, "10.77.0.2/24", four), ports(&me, "fd77::2/64", six)];
    let mut result = result();
    if !ip6tables_can_check() {
        intents.pop();
        result["ips"].as_array_mut().unwrap().pop();
    }
    intents.iter_mut().for_each(change);
    (portmap(&Value::from(mappings), keys, &result), intents)
}

/// `text` without the rules that name our owners.
fn without_owners(text: &str) -> String {
    text.lines().filter(|line| !line.contains(", if: ")).map(|line| format!("{line}\n")).collect()
}

type Change = fn(&mut PortForwards);

fn stories() -> Vec<(Value, Change)> {
    vec![
        (json!({ "snat": true }), |_| {}),
        (json!({ "snat": false }), |intent| intent.snat = Snat::Off),
        (json!({ "snat": true, "markMasqBit": 0 }), |intent| intent.mark = MarkChain::Bit(0)),
        (json!({ "snat": true, "externalSetMarkChain": "OTHERS" }), |intent| {
            intent.mark = MarkChain::External("OTHERS".to_owned());
        }),
        (
            json!({ "snat": true, "conditionsV4": ["!", "-s", "192.0.2.0/24"], "conditionsV6": ["-m", "limit"] }),
            |intent| {
                let four = ["!", "-s", "192.0.2.0/24"];
                let six = ["-m", "limit"];
                let args: &[&str] = if intent.container.is_ipv4() { &four } else { &six };
                intent.conditions = args.iter().map(|&arg| arg.to_owned()).collect();
            },
        ),
    ]
}

fn reset() {
    for family in ["iptables", "ip6tables"] {
        run(family, &["-w", "-t", "nat", "-F"]);
        run(family, &["-w", "-t", "nat", "-X"]);
        run(family, &["-w", "-t", "nat", "-N", "OTHERS"]);
    }
    std::fs::create_dir_all("/run/netns").unwrap();
}

#[test]
fn the_rules_for_ports_are_gos() {
    in_either_variant("go::the_rules_for_ports_are_gos", || {
        for (keys, change) in stories() {
            let (config, intents) = story(&keys, change);
            reset();
            if go("portmap", "ADD", "c1", "eth0", &config).is_none() {
                return;
            }
            let gos = dump_nat();
            reset();
            Iptables::find().unwrap().add_ports(&intents).unwrap();
            assert_eq!(without_owners(&dump_nat()), gos, "{keys}");
        }
    });
}

/// Hides ip6tables from Go: CHECK of its portmap 1.1.1 looks for the IPv4 rules in `ip6tables` too, wherever that is
/// installed, and so never succeeds, not even for its own.
fn go_checks_ports(config: &Value) -> Option<String> {
    let mut config = config.clone();
    config["prevResult"]["ips"].as_array_mut().unwrap().truncate(1);
    let folder = tempfile::tempdir().unwrap();
    let tool = std::fs::canonicalize("/usr/sbin/iptables-".to_owned() + &variant()).unwrap();
    std::os::unix::fs::symlink(tool, folder.path().join("iptables")).unwrap();
    go_with_path(Some(folder.path()), "portmap", "CHECK", "c1", "eth0", &config)
}

#[test]
fn go_checks_and_deletes_our_ports() {
    in_either_variant("go::go_checks_and_deletes_our_ports", || {
        for (keys, change) in stories() {
            let (config, intents) = story(&keys, change);
            reset();
            Iptables::find().unwrap().add_ports(&intents).unwrap();
            if go_checks_ports(&config).is_none() {
                return;
            }
            go("portmap", "DEL", "c1", "eth0", &config);
            assert!(!dump_nat().contains("CNI-DN"), "{keys}");
        }
    });
}

#[test]
fn we_check_and_delete_gos_ports() {
    in_either_variant("go::we_check_and_delete_gos_ports", || {
        let tools = Iptables::find().unwrap();
        for (keys, change) in stories() {
            let (config, intents) = story(&keys, change);
            for round in ["hints", "no hints", "taken over", "gc"] {
                reset();
                if go("portmap", "ADD", "c1", "eth0", &config).is_none() {
                    return;
                }
                assert_eq!(tools.check_ports(&intents).unwrap().differences, [], "{keys}");
                match round {
                    "hints" => drop(tools.remove_ports(&owner("c1", "eth0"), &intents).unwrap()),
                    "no hints" => drop(tools.remove_ports(&owner("c1", "eth0"), &[]).unwrap()),
                    "taken over" => {
                        let before = dump_nat();
                        tools.add_ports(&intents).unwrap();
                        tools.retain_ports(&intents[0].owner.network, &[owner("c1", "eth0")]).unwrap();
                        assert_eq!(without_owners(&dump_nat()), before, "{keys}");
                        tools.remove_ports(&owner("c1", "eth1"), &[]).unwrap();
                        assert_eq!(without_owners(&dump_nat()), before, "{keys}");
                        tools.remove_ports(&owner("c1", "eth0"), &intents).unwrap();
                    }
                    _ => {
                        let before = dump_nat();
                        tools.retain_ports(&intents[0].owner.network, &[owner("c1", "eth5")]).unwrap();
                        assert_eq!(dump_nat(), before);
                        tools.retain_ports(&intents[0].owner.network, &[owner("c2", "eth0")]).unwrap();
                    }
                }
                assert!(!dump_nat().contains("CNI-DN"), "{round} {keys}\n{}", dump_nat());
            }
        }
    });
}

/// In either family's list are the ports of both.
#[test]
fn gos_lists_of_both_families_are_complete() {
    in_either_variant("go::gos_lists_of_both_families_are_complete", || {
        let (mut config, mut intents) = story(&json!({ "snat": true }), |_| {});
        for (n, host_ip) in [(5, "fd77::1"), (9, "10.77.0.1")] {
            config["runtimeConfig"]["portMappings"][n]["hostIP"] = host_ip.into();
            intents.iter_mut().for_each(|intent| intent.ports[n].host_ip = Some(host_ip.parse().unwrap()));
        }
        for intent in &mut intents {
            let v4 = intent.container.is_ipv4();
            intent.ports.retain(|port| port.host_ip.is_none_or(|ip| ip.is_ipv4() == v4));
        }
        reset();
        if go("portmap", "ADD", "c1", "eth0", &config).is_none() {
            return;
        }
        let tools = Iptables::find().unwrap();
        assert_eq!(tools.check_ports(&intents).unwrap().differences, []);
        run("iptables", &["-w", "-t", "nat", "-D", "CNI-HOSTPORT-DNAT", "1"]);
        assert!(!tools.check_ports(&intents).unwrap().differences.is_empty());
    });
}

/// Go's ADD adds what it would write otherwise behind ours, where it changes nothing.
#[test]
fn our_check_passes_after_gos_add() {
    in_either_variant("go::our_check_passes_after_gos_add", || {
        let tools = Iptables::find().unwrap();
        let (mut config, mut intents) = story(&json!({ "snat": true }), |_| {});
        let ports = (config.clone(), intents.clone());
        // A row, which Go writes port by port.
        for intent in &mut intents {
            let to = |n: u16| (intent.container.ip(), 100 + n).into();
            let forward = |n| PortForward { to: to(n), ..port(Protocol::Tcp, 9000 + n, "0.0.0.0:0") };
            intent.ports = (0..70).map(forward).collect();
        }
        let mappings: Vec<Value> =
            (9000..9070).map(|n| json!({ "hostPort": n, "containerPort": n - 8900, "protocol": "tcp" })).collect();
        config["runtimeConfig"]["portMappings"] = mappings.into();
        for (config, intents) in [ports, (config, intents)] {
            reset();
            tools.add_ports(&intents).unwrap();
            if go("portmap", "ADD", "c1", "eth0", &config).is_none() {
                return;
            }
            assert_eq!(tools.check_ports(&intents).unwrap().differences, []);
            tools.remove_ports(&owner("c1", "eth0"), &intents).unwrap();
            assert!(!dump_nat().contains("CNI-DN"), "{}", dump_nat());
        }
    });
}

#[test]
fn a_port_that_go_published_is_held() {
    in_either_variant("go::a_port_that_go_published_is_held", || {
        reset();
        let (config, mut intents) = story(&json!({ "snat": true }), |_| {});
        if go("portmap", "ADD", "c1", "eth0", &config).is_none() {
            return;
        }
        let before = dump_nat();
        intents.iter_mut().for_each(|intent| intent.owner = owner("c2", "eth0"));
        let error = Iptables::find().unwrap().add_ports(&intents).unwrap_err();
        assert_eq!(
            error.to_string(),
            "host port 8000 tcp is held by container c1 of network test-net: detach that container first, or request another one"
        );
        assert_eq!(dump_nat(), before);
    });
}

/// Runs Go's bridge with masquerading in a namespace for the container; returns its configuration.
fn bridge(command: &str) -> Option<()> {
    let ranges = json!([[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd77::/64" }]]);
    let config = json!({
        "cniVersion": "1.0.0", "name": "test-net", "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipMasq": true, "ipam": { "type": "host-local", "ranges": ranges, "dataDir": "/run/ipam" },
    });
    go("bridge", command, "c1", "eth0", &config).map(drop)
}

#[test]
fn masquerading_goes_both_ways() {
    in_either_variant("go::masquerading_goes_both_ways", || {
        let tools = Iptables::find().unwrap();
        reset();
        run("ip", &["netns", "add", "c1"]);
        if bridge("ADD").is_none() {
            return;
        }
        let me = owner("c1", "eth0");
        let gos = dump_nat();
        let wanted = [masquerade(&me, "10.77.0.2/24"), masquerade(&me, "fd77::2/64")];
        assert_eq!(tools.check_masquerade(&wanted).unwrap(), []);
        tools.add_masquerade(&wanted).unwrap();
        assert_eq!(without_owners(&dump_nat()), gos, "taken over, for it says the same");

        // As versions before 0.8 entered the chain.
        let chain = gos.split_whitespace().find_map(|word| word.strip_prefix(":CNI-")).unwrap();
        let chain = format!("CNI-{chain}");
        run("iptables", &["-w", "-t", "nat", "-A", "POSTROUTING", "-s", "10.77.0.2/24", "-j", &chain]);
        tools.remove_masquerade(&me, &["10.77.0.2/24".parse().unwrap(), "fd77::2/64".parse().unwrap()]).unwrap();
        assert!(!dump_nat().contains(&chain), "{}", dump_nat());

        tools.add_masquerade(&wanted).unwrap();
        assert_eq!(without_owners(&dump_nat()), gos, "and made anew");
        bridge("DEL");
        assert!(!dump_nat().contains(&chain), "{}", dump_nat());
    });
}

#[test]
fn gos_chain_for_another_interface_stays() {
    in_either_variant("go::gos_chain_for_another_interface_stays", || {
        let tools = Iptables::find().unwrap();
        reset();
        run("ip", &["netns", "add", "c1"]);
        if bridge("ADD").is_none() {
            return;
        }
        let gos = dump_nat();
        let second = owner("c1", "eth1");
        tools.add_masquerade(&[masquerade(&second, "10.77.0.3/24")]).unwrap();
        assert!(tools.check_masquerade(&[masquerade(&second, "10.77.0.3/24")]).unwrap().is_empty());
        tools.remove_masquerade(&second, &["10.77.0.3/24".parse().unwrap()]).unwrap();
        assert_eq!(dump_nat(), gos);
        tools.retain_masquerade(&second.network, &[]).unwrap();
        assert!(!dump_nat().contains("10.77"));
    });
}
