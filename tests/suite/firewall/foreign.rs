//! firewall: base chains of other programs that drop what it lets through are named, and no others.

use cni_tests::conf::Backend;
use cni_tests::{Sandbox, netns};

use super::{add, call};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        let name = |what: &str| format!("{}::{what}", backend.name());
        for chain in DROPPING {
            cases.push(improved(name(chain.what), move |sb| foreign(sb, backend, chain)));
        }
        for chain in HARMLESS {
            cases.push(improved(name(chain.what), move |sb| foreign(sb, backend, chain)));
        }
        cases.push(improved(name("docker_is_harmless"), move |sb| docker(sb, backend)));
        cases.push(improved(name("status_and_check_while_others_change"), move |sb| changing(sb, backend)));
    }
    cases
}

/// A base chain of another program, `through` in table `mine`. The container's addresses are 10.9.0.2 and fd00:9::2.
struct Foreign {
    what: &'static str,
    family: &'static str,
    /// Its type, hook and priority.
    base: &'static str,
    rules: &'static str,
    /// Who has to name it. STATUS knows no address, and thinks of IPv4.
    named_by: &'static [&'static str],
}

const LATER: &str = "type filter hook forward priority 10";
const EARLIER: &str = "type filter hook forward priority -150";

const fn chain(
    what: &'static str,
    (family, base): (&'static str, &'static str),
    rules: &'static str,
    named_by: &'static [&'static str],
) -> Foreign {
    Foreign { what, family, base, rules, named_by }
}

const BOTH: &[&str] = &["CHECK", "STATUS"];
const CHECK: &[&str] = &["CHECK"];

const DROPPING: &[Foreign] = &[
    chain("policy_drop", ("inet", LATER), "policy drop;", BOTH),
    chain("policy_drop_of_ip", ("ip", LATER), "policy drop;", BOTH),
    chain("policy_drop_of_ip6", ("ip6", LATER), "policy drop;", CHECK),
    chain("policy_drop_earlier", ("inet", EARLIER), "policy drop;", BOTH),
    chain("policy_drop_last", ("inet", "type filter hook forward priority 40000"), "policy drop;", BOTH),
    chain("drop_at_the_end", ("ip", LATER), "ct state established accept; counter drop", BOTH),
    chain("reject_at_the_end", ("inet", LATER), "ct state established accept; counter reject", BOTH),
    chain("accept_behind_the_drop", ("inet", LATER), "counter drop; ip saddr 10.0.0.0/8 accept", BOTH),
    chain("drop_of_what_is_new", ("inet", LATER), "ct state new log drop", BOTH),
    chain("drop_of_the_subnet", ("inet", LATER), "ip saddr 10.9.0.0/20 drop", CHECK),
    chain("drop_of_the_subnet_ip6", ("ip6", LATER), "ip6 saddr fd00:9::/64 counter drop", CHECK),
    chain("accept_for_one_family", ("inet", LATER), "policy drop; ip saddr 10.0.0.0/8 accept", CHECK),
    chain("mark_that_is_not_set_yet", ("inet", EARLIER), "policy drop; meta mark & 0x1000 == 0x1000 accept", BOTH),
    chain("return_to_a_policy_drop", ("inet", LATER), "policy drop; meta nfproto ipv4 return; accept", BOTH),
    chain(
        "replies_and_others_only",
        ("inet", LATER),
        "policy drop; ct state established,related accept; ct state vmap { established : accept, invalid : drop }; \
         ct state { established, related } accept; iifname lo accept; tcp dport 22 accept; tcp dport { 80, 443 } accept; \
         ct state != new accept; meta nfproto ipv6 ip6 saddr 2001:db8::/32 accept",
        BOTH,
    ),
    chain("accept_for_other_addresses", ("ip", LATER), "policy drop; ip saddr 192.0.2.0/24 accept", CHECK),
];

const HARMLESS: &[Foreign] = &[
    chain("accept", ("inet", LATER), "policy drop; ip saddr 10.0.0.0/8 accept; ip6 saddr fd00::/8 accept", &[]),
    chain("accept_of_the_mark", ("inet", LATER), "policy drop; meta mark & 0x1000 == 0x1000 accept", &[]),
    chain("accept_of_what_is_new", ("inet", LATER), "policy drop; ct state new accept", &[]),
    chain("accept_of_states", ("inet", LATER), "policy drop; ct state { new, established } accept", &[]),
    chain("map_of_states", ("inet", LATER), "policy drop; ct state vmap { established : accept, new : jump on }", &[]),
    chain("accept_by_a_set", ("ip", LATER), "policy drop; ip saddr { 10.9.0.0/24, 10.10.0.0/24 } accept", &[]),
    chain("accept_but_for_a_port", ("inet", LATER), "policy drop; meta l4proto != sctp accept", &[]),
    chain("accept_by_interface", ("inet", LATER), "policy drop; oifname != \"eth7\" accept", &[]),
    chain("map_of_interfaces", ("inet", LATER), "policy drop; iifname vmap { \"br0\" : jump on }", &[]),
    chain("jump", ("inet", LATER), "policy drop; jump on", &[]),
    chain("drops_of_some_ports", ("inet", LATER), "tcp dport 25 drop; udp dport { 137, 138 } drop", &[]),
    chain("drops_of_others", ("inet", LATER), "ip saddr 192.0.2.0/24 drop; ip6 saddr 2001:db8::/32 drop", &[]),
    chain("drop_of_what_is_invalid", ("inet", LATER), "ct state invalid drop; ct state vmap { invalid : drop }", &[]),
    chain("drop_of_an_interface", ("inet", LATER), "iifname \"eth7\" drop", &[]),
    chain("limited_drop", ("inet", LATER), "limit rate over 1000/second drop", &[]),
    chain(
        "return_to_a_policy_accept",
        ("inet", LATER),
        "ip saddr 10.0.0.0/8 return; ip6 saddr fd00::/8 return; drop",
        &[],
    ),
    chain("another_hook", ("inet", "type filter hook output priority 0"), "policy drop;", &[]),
    chain("frames_on_a_bridge", ("bridge", "type filter hook forward priority 0"), "policy drop;", &[]),
    chain("as_firewalld_has_it", ("inet", LATER), FIREWALLD, &[]),
];

/// As firewalld 1.3 writes it, with the policies in a chain of their own.
const FIREWALLD: &str = "ct state { established, related } accept; ct status dnat accept; iifname \"lo\" accept; \
    ct state invalid drop; ip6 daddr { ::/96, ::ffff:0.0.0.0/96 } reject with icmpv6 type addr-unreachable; jump on; \
    reject with icmpx type admin-prohibited";

fn foreign(sb: &Sandbox, backend: Backend, chain: &Foreign) {
    sb.needs("firewall", "1.1.0");
    let conf = add(sb, backend, "open", "c1", 2);
    call(sb, "CHECK", "c1", &conf).silent();
    let Foreign { family, base, rules, named_by, .. } = chain;
    load(&format!("table {family} mine {{\nchain on {{\n}}\nchain through {{\n{base}; {rules}\n}}\n}}\n"));
    let status = || sb.plugin("firewall", "STATUS").conf(&conf).run();
    let chain = format!("{family} mine through");
    let check = call(sb, "CHECK", "c1", &conf);
    if named_by.contains(&"CHECK") {
        check.error().names(&[&chain]);
    } else {
        check.silent();
    }
    // An ADD would succeed, so STATUS does too.
    let said = status();
    said.silent();
    assert_eq!(said.stderr.contains(&chain), named_by.contains(&"STATUS"), "{}", said.stderr);
    // Switched off, it drops nothing.
    load(&format!("table {family} mine {{\nflags dormant\n}}\n"));
    call(sb, "CHECK", "c1", &conf).silent();
    status().silent();
}

fn load(text: &str) {
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/rules", text).unwrap();
    netns::sh(&["nft", "-f", "/run/cni-test/rules"]);
}

/// Docker's chains in `FORWARD`, in front of ours and behind, with its policy.
fn docker(sb: &Sandbox, backend: Backend) {
    sb.needs("firewall", "1.1.0");
    let rules = "*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n:DOCKER-FORWARD - [0:0]\n\
        :DOCKER-ISOLATION-STAGE-1 - [0:0]\n:DOCKER-ISOLATION-STAGE-2 - [0:0]\n\
        -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n-A DOCKER-USER -j RETURN\n\
        -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
        -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A DOCKER-FORWARD -o docker0 -j DOCKER\n-A DOCKER-FORWARD -i docker0 -j ACCEPT\n\
        -A DOCKER ! -i docker0 -o docker0 -j DROP\n\
        -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n\
        -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\nCOMMIT\n";
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/docker", rules).unwrap();
    for tool in ["iptables-restore", "ip6tables-restore"] {
        netns::sh(&[tool, "/run/cni-test/docker"]);
    }
    let conf = add(sb, backend, "same-bridge", "c1", 2);
    call(sb, "CHECK", "c1", &conf).silent();
    sb.plugin("firewall", "STATUS").conf(&conf).run().silent();
    // Docker puts its own first again whenever it starts.
    netns::sh(&["sh", "-c", "iptables -D FORWARD -j DOCKER-USER; iptables -I FORWARD -j DOCKER-USER"]);
    call(sb, "CHECK", "c1", &conf).silent();
}

/// Hundreds of others' rules in a table that has nothing to do with what is forwarded, and programs that change tables all
/// the time.
fn changing(sb: &Sandbox, backend: Backend) {
    sb.needs("firewall", "1.1.0");
    let conf = add(sb, backend, "same-bridge", "c1", 2);
    let rule = |n: u32| {
        let source = format!("198.18.{}.{}/32", n / 256, n % 256);
        format!("-A POSTROUTING -s {source} -m comment --comment \"another program's rule {n}\" -j RETURN\n")
    };
    let rules: String = (0..600).map(rule).collect();
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/many", format!("*nat\n{rules}COMMIT\n")).unwrap();
    netns::sh(&["iptables-restore", "--noflush", "/run/cni-test/many"]);
    let script = "n=0; while [ ! -e /run/cni-test/stop ] && [ $n -lt 2000 ]; do n=$((n + 1)); nft add table ip x$1; nft delete table ip x$1; done";
    let start = |n: &str| std::process::Command::new("sh").args(["-c", script, "sh", n]).spawn().unwrap();
    let mut writers = ["1", "2", "3"].map(start);
    let outcomes: Vec<_> = (0..4)
        .flat_map(|_| [sb.plugin("firewall", "STATUS").conf(&conf).run(), call(sb, "CHECK", "c1", &conf)])
        .collect();
    std::fs::write("/run/cni-test/stop", "").unwrap();
    writers.iter_mut().for_each(|writer| drop(writer.wait()));
    outcomes.iter().for_each(|outcome| outcome.silent());
}
