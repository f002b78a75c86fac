//! What is wanted and what is there, compared without a kernel. `testdata` is what the Go plugins 1.1.1 made on a
//! Debian 12, as `iptables-save -t nat` printed it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::plan::{Wanted, remove_chains};
use super::rules::{Rule, Script};
use super::save::Table;
use super::testing::owner;
use super::tool::Family;
use super::{held, masquerade, names, ports};
use crate::{MarkChain, Masquerade, PortForward, PortForwards, Protocol, Snat};

const GO_V4: &str = include_str!("testdata/go-v4.save");
const GO_V6: &str = include_str!("testdata/go-v6.save");

fn masquerade_of(address: &str) -> Masquerade {
    let subnet: IpNetwork = address.parse().unwrap();
    Masquerade { owner: owner("c1abc", "eth0"), address: subnet.ip(), subnet }
}

fn forward(protocol: Protocol, host_port: u16, host_ip: Option<&str>, to: IpAddr, port: u16) -> PortForward {
    let host_ip = host_ip.map(|ip| ip.parse().unwrap());
    PortForward { protocol, host_ip, host_port, to: (to, port).into() }
}

/// What Go was told to publish.
fn go_ports(container: &str, conditions: &[&str]) -> PortForwards {
    let container: IpNetwork = container.parse().unwrap();
    let to = container.ip();
    let mut ports: Vec<PortForward> = (0..17).map(|n| forward(Protocol::Tcp, 8080 + n, None, to, 80 + n)).collect();
    ports.push(forward(Protocol::Udp, 53, Some("0.0.0.0"), to, 53));
    if to.is_ipv4() {
        ports.push(forward(Protocol::Sctp, 99, Some("10.77.0.1"), to, 98));
    } else {
        ports.push(forward(Protocol::Tcp, 97, Some("fd77::1"), to, 96));
    }
    PortForwards {
        owner: owner("c1abc", "eth0"),
        container,
        ports,
        snat: Snat::Local,
        mark: MarkChain::Bit(13),
        conditions: conditions.iter().map(|&arg| arg.to_owned()).collect(),
        exclude: Vec::new(),
        guard_localnet: true,
        link: None,
    }
}

/// The script that completes `table`.
fn repair(wanted: &Wanted, table: &Table) -> String {
    let mut script = Script::default();
    wanted.repair(table, &mut script);
    script.finish().unwrap()
}

/// `table` as it is after `script`, which may only create and append.
fn grown(table: &str, script: &str) -> Table {
    let lines = script.lines().map(|line| line.replacen("-I ", "-A ", 1));
    let text: String =
        lines.inspect(|line| assert!(!line.starts_with("-D"), "{line}")).map(|line| line + "\n").collect();
    Table::parse(&format!("{table}{text}"))
}

#[test]
fn go_made_what_we_want() {
    for (text, address, family) in [(GO_V4, "10.77.0.2/24", Family::V4), (GO_V6, "fd77::2/64", Family::V6)] {
        let table = Table::parse(text);
        let masquerade = masquerade::wanted(&[masquerade_of(address)], family).remove(0);
        assert_eq!(masquerade.differences(&table, "iptables"), []);

        let conditions: &[&str] =
            if family == Family::V4 { &["!", "-s", "192.0.2.0/24"] } else { &["-s", "2001:db8::/32"] };
        let ports = ports::wanted(&go_ports(address, conditions));
        let chain = ports.kind.shared_name(&ports.owner);
        for rule in ports.body(&chain) {
            assert!(table.has(&rule), "{rule}");
        }
        assert_eq!(ports.body(&chain).len(), table.chain(&chain).unwrap().len());
        for (rule, _) in &ports.frame.rules {
            assert!(table.has(rule), "{rule}");
        }
    }
}

#[test]
fn what_is_repaired_needs_no_repair() {
    let wanted = [
        masquerade::wanted(&[masquerade_of("10.77.0.2/24"), masquerade_of("10.78.0.2/24")], Family::V4).remove(0),
        ports::wanted(&go_ports("10.77.0.2/24", &[])),
        ports::wanted(&PortForwards { snat: Snat::Off, ..go_ports("fd77::2/64", &[]) }),
        ports::wanted(&PortForwards { mark: MarkChain::External("X".to_owned()), ..go_ports("fd77::2/64", &[]) }),
    ];
    for wanted in wanted {
        let script = repair(&wanted, &Table::default());
        let table = grown("", &script);
        assert_eq!(repair(&wanted, &table), "", "{script}");
        assert_eq!(wanted.differences(&table, "iptables"), []);
        for (n, line) in script.lines().enumerate().filter(|(_, line)| line.starts_with("-A") || line.starts_with("-I"))
        {
            let without: String =
                script.lines().enumerate().filter(|(m, _)| *m != n).map(|(_, line)| format!("{line}\n")).collect();
            let damaged = grown("", &without);
            assert_ne!(repair(&wanted, &damaged), "", "{line}");
            let is_owner_rule = line.contains(", if: ");
            assert_eq!(wanted.differences(&damaged, "iptables").is_empty(), is_owner_rule, "{line}");
        }
    }
}

#[test]
fn a_frame_is_completed_and_not_emptied() {
    let others = "-N CNI-HOSTPORT-DNAT\n-A CNI-HOSTPORT-DNAT -j CNI-DN-0\n-A PREROUTING -j KUBE\n";
    let script = repair(&ports::wanted(&go_ports("10.77.0.2/24", &[])), &Table::parse(others));
    assert!(!script.contains(":CNI-HOSTPORT") && !script.contains("-N CNI-HOSTPORT-DNAT"), "{script}");
    assert!(script.contains("-N CNI-HOSTPORT-MASQ\n") && script.contains("-I POSTROUTING "), "{script}");
}

#[test]
fn several_subnets_are_accepted_before_anything_is_masqueraded() {
    let wanted = masquerade::wanted(&[masquerade_of("10.77.0.2/24"), masquerade_of("10.78.0.2/24")], Family::V4);
    let body = wanted[0].body("X");
    let targets: Vec<_> = body.iter().filter_map(Rule::target).collect();
    assert_eq!((wanted.len(), targets), (1, vec!["ACCEPT", "ACCEPT", "MASQUERADE"]));
    assert!(masquerade::wanted(&[masquerade_of("10.77.0.2/24")], Family::V6).is_empty());
}

#[test]
fn deletion_takes_the_chain_and_what_leads_to_it_only() {
    let table = Table::parse(GO_V4);
    let chains = names::of_owner(&table, names::Kind::Ports, &owner("c1abc", "eth0"));
    let mut script = Script::default();
    remove_chains(&table, &chains, &mut script);
    let script = script.finish().unwrap();
    let lines: Vec<&str> = script.lines().collect();
    assert_eq!(lines.len(), 4 + 2, "{script}");
    assert!(lines[..4].iter().all(|line| line.starts_with("-D CNI-HOSTPORT-DNAT ") && line.ends_with(&chains[0])));
    assert_eq!(lines[4..], [format!("-F {}", chains[0]), format!("-X {}", chains[0])]);
}

#[test]
fn a_flushed_chain_is_nobodys() {
    let wanted = masquerade::wanted(&[masquerade_of("10.77.0.2/24")], Family::V4).remove(0);
    let shared = wanted.kind.shared_name(&wanted.owner);
    assert_eq!(wanted.chain(&Table::parse(&format!("-N {shared}"))), shared);
    let others = Table::parse(&format!("-N {shared}\n-A POSTROUTING -s 10.77.0.9/32 -j {shared}"));
    assert_eq!(wanted.chain(&others), wanted.kind.own_name(&wanted.owner));
}

#[test]
fn the_holder_of_a_port_is_found_by_protocol_number_and_address() {
    let table = Table::parse(GO_V4);
    let to: IpAddr = "10.77.0.3".parse().unwrap();
    let verdict = |id: &str, forward: PortForward| {
        let intent = PortForwards { owner: owner(id, "eth0"), ports: vec![forward], ..go_ports("10.77.0.3/24", &[]) };
        let chain = ports::wanted(&intent).chain(&table);
        let holder = held::holders(&table, &chain, &intent).pop();
        let held = holder.map_or(Ok(()), |holder| Err(holder.refuses().to_string()));
        assert!(held.is_ok() || held::suspect(&table, &chain, &intent), "what is held is suspect");
        held
    };
    let text = verdict("c2", forward(Protocol::Tcp, 8096, None, to, 1)).unwrap_err();
    assert!(text.starts_with("host port 8096 tcp is held by container c1abc of network test-net: "), "{text}");
    assert!(verdict("c2", forward(Protocol::Tcp, 8081, Some("192.0.2.1"), to, 1)).is_err(), "theirs is for all");
    assert!(verdict("c2", forward(Protocol::Sctp, 99, Some("0.0.0.0"), to, 1)).is_err(), "ours is for all");
    assert!(verdict("c2", forward(Protocol::Sctp, 99, Some("10.77.0.1"), to, 1)).is_err());
    assert!(verdict("c2", forward(Protocol::Sctp, 99, Some("10.77.0.9"), to, 1)).is_ok(), "another address");
    assert!(verdict("c2", forward(Protocol::Udp, 8081, None, to, 1)).is_ok(), "another protocol");
    assert!(verdict("c2", forward(Protocol::Tcp, 808, None, to, 1)).is_ok(), "another number");
    assert!(verdict("c2", forward(Protocol::Tcp, 97, None, to, 1)).is_ok(), "in the list for IPv6's sake only");
    assert!(verdict("c1abc", forward(Protocol::Tcp, 8081, None, to, 1)).is_ok(), "the same container");
}

#[test]
fn who_came_later_is_in_nobodys_way() {
    let intent = PortForwards { owner: owner("c2", "eth0"), ..go_ports("10.77.0.3/24", &[]) };
    let wanted = ports::wanted(&intent);
    let chain = wanted.kind.shared_name(&intent.owner);
    let mut first = Script::default();
    wanted.entries(&chain).iter().for_each(|rule| first.append(rule));
    let table = Table::parse(&(first.finish().unwrap() + GO_V4));
    assert!(held::holders(&table, &chain, &intent).is_empty());
    let table = Table::parse(GO_V4);
    assert!(!held::holders(&table, &chain, &intent).is_empty());
}

#[test]
fn every_mark_bit_is_written_as_iptables_prints_it() {
    for (bit, mark) in [(0, "0x1/0x1"), (13, "0x2000/0x2000"), (31, "0x80000000/0x80000000")] {
        let frame = ports::wanted(&PortForwards { mark: MarkChain::Bit(bit), ..go_ports("10.77.0.2/24", &[]) }).frame;
        assert_eq!(frame.rules[0].0.value("--set-xmark"), Some(mark));
        assert_eq!(frame.rules[1].0.value("--mark"), Some(mark));
    }
}
