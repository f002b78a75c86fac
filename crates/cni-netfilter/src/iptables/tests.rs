//! Wanted and existing rules, compared without a kernel. `testdata` has the rules of the Go plugins 1.1.1 on Debian 12, as
//! `iptables-save -t nat` printed them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::owned::OwnedChain;
use super::tool::{Rule, ScriptCommand, Table};
use super::{masquerade, ports};
use crate::intent::{MarkChain, Masquerade, PortForward, PortForwards, Snat};
use cni_plugin::{Family, Owner, Protocol};

pub(super) const GO_V4: &str = include_str!("testdata/go-v4.save");
const GO_V6: &str = include_str!("testdata/go-v6.save");

/// An owner on the network of `testdata`.
pub(super) fn owner(id: &str, ifname: &str) -> Owner {
    Owner { network: "test-net".parse().unwrap(), container_id: id.parse().unwrap(), ifname: ifname.parse().unwrap() }
}

fn masquerade_of(address: &str) -> Masquerade {
    let subnet: IpNetwork = address.parse().unwrap();
    Masquerade { owner: owner("c1abc", "eth0"), address: subnet.ip(), subnet, to: None }
}

pub(super) fn forward(protocol: Protocol, host_port: u16, host_ip: Option<&str>, to: IpAddr, port: u16) -> PortForward {
    let host_ip = host_ip.map(|ip| ip.parse().unwrap());
    PortForward { protocol, host_ip, host_port, to: (to, port).into() }
}

/// What the Go plugin was asked to publish.
pub(super) fn go_ports(container: &str, conditions: &[&str]) -> PortForwards {
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
        shares: std::collections::BTreeMap::new(),
        snat: Snat::Local,
        mark: MarkChain::Bit(13),
        conditions: conditions.iter().map(|&arg| arg.to_owned()).collect(),
        exclude: Vec::new(),
        guard_localnet: true,
        link: None,
    }
}

/// The rules of one owner's ports.
fn ports_of(intent: PortForwards) -> OwnedChain {
    let family = Family::of(intent.container.ip());
    ports::wanted(&[intent], family).remove(0)
}

/// The commands that complete `table`, and the table that they make of it.
fn completed(wanted: &OwnedChain, table: &Table) -> (Vec<ScriptCommand>, Table) {
    let mut table = table.clone();
    wanted.complete(&mut table);
    (table.changes().commands().to_vec(), table.settled())
}

#[test]
fn go_made_what_we_want() {
    for (text, address, family) in [(GO_V4, "10.77.0.2/24", Family::V4), (GO_V6, "fd77::2/64", Family::V6)] {
        let table = Table::parse("nat", text);
        let masquerade = masquerade::wanted(&[masquerade_of(address)], family).remove(0);
        assert_eq!(masquerade.differences(&table, "iptables"), []);

        let conditions: &[&str] =
            if family == Family::V4 { &["!", "-s", "192.0.2.0/24"] } else { &["-s", "2001:db8::/32"] };
        let ports = ports_of(go_ports(address, conditions));
        let chain = ports.kind.shared_name(&ports.owner);
        for rule in ports.body(&chain) {
            assert!(table.has(&rule), "{rule}");
        }
        assert_eq!(ports.body(&chain).len(), table.rules(&chain).count());
        for (rule, _) in &ports.skeleton.rules {
            assert!(table.has(rule), "{rule}");
        }
    }
}

#[test]
fn what_is_completed_needs_no_completion() {
    let wanted = [
        masquerade::wanted(&[masquerade_of("10.77.0.2/24"), masquerade_of("10.78.0.2/24")], Family::V4).remove(0),
        ports_of(go_ports("10.77.0.2/24", &[])),
        ports_of(PortForwards { snat: Snat::Off, ..go_ports("fd77::2/64", &[]) }),
        ports_of(PortForwards { mark: MarkChain::External("X".to_owned()), ..go_ports("fd77::2/64", &[]) }),
    ];
    for wanted in wanted {
        let (commands, table) = completed(&wanted, &Table::empty("nat"));
        assert!(!commands.iter().any(|command| matches!(command, ScriptCommand::Delete(_))), "{commands:?}");
        assert_eq!(completed(&wanted, &table).0, []);
        assert_eq!(wanted.differences(&table, "iptables"), []);
        let rules: Vec<Rule> = table.all_rules().cloned().collect();
        for rule in rules {
            let mut damaged = table.clone();
            damaged.delete(&rule);
            let damaged = damaged.settled();
            assert_ne!(completed(&wanted, &damaged).0, [], "{rule}");
            let is_owner_rule = rule.to_string().contains(", if: ");
            assert_eq!(wanted.differences(&damaged, "iptables").is_empty(), is_owner_rule, "{rule}");
        }
    }
}

#[test]
fn a_skeleton_is_completed_and_not_emptied() {
    let others = "-N CNI-HOSTPORT-DNAT\n-A CNI-HOSTPORT-DNAT -j CNI-DN-0\n-A PREROUTING -j KUBE\n";
    let (commands, _) = completed(&ports_of(go_ports("10.77.0.2/24", &[])), &Table::parse("nat", others));
    let is = |command: &ScriptCommand, name: &str| match command {
        ScriptCommand::Create(chain) | ScriptCommand::Reset(chain) => chain == name,
        _ => false,
    };
    assert!(!commands.iter().any(|command| is(command, "CNI-HOSTPORT-DNAT")), "{commands:?}");
    assert!(commands.contains(&ScriptCommand::Create("CNI-HOSTPORT-MASQ".to_owned())), "{commands:?}");
    let inserts = commands.iter().filter(|command| matches!(command, ScriptCommand::Insert(_)));
    let inserted: Vec<_> = inserts.collect();
    assert!(matches!(inserted[..], [ScriptCommand::Insert(rule)] if rule.chain == "POSTROUTING"), "{inserted:?}");
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
    let mut table = Table::parse("nat", GO_V4);
    let chains = ports::CHAINS.of_owner(&table, &owner("c1abc", "eth0"));
    table.remove_chains(&chains);
    let text = table.changes().text().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 4 + 2 + 1, "{text}");
    assert!(lines[1..5].iter().all(|line| line.starts_with("-D CNI-HOSTPORT-DNAT ") && line.ends_with(&chains[0])));
    assert_eq!(lines[5..7], [format!("-F {}", chains[0]), format!("-X {}", chains[0])]);
}

#[test]
fn a_flushed_chain_has_no_owner() {
    let wanted = masquerade::wanted(&[masquerade_of("10.77.0.2/24")], Family::V4).remove(0);
    let shared = wanted.kind.shared_name(&wanted.owner);
    assert_eq!(wanted.chain(&Table::parse("nat", &format!("-N {shared}"))), shared);
    let others = Table::parse("nat", &format!("-N {shared}\n-A POSTROUTING -s 10.77.0.9/32 -j {shared}"));
    assert_eq!(wanted.chain(&others), wanted.kind.own_name(&wanted.owner));
}

#[test]
fn every_mark_bit_is_written_as_iptables_prints_it() {
    for (bit, mark) in [(0, "0x1/0x1"), (13, "0x2000/0x2000"), (31, "0x80000000/0x80000000")] {
        let wanted = ports_of(PortForwards { mark: MarkChain::Bit(bit), ..go_ports("10.77.0.2/24", &[]) });
        let skeleton = wanted.skeleton;
        assert_eq!(skeleton.rules[0].0.value("--set-xmark"), Some(mark));
        assert_eq!(skeleton.rules[1].0.value("--mark"), Some(mark));
    }
}
