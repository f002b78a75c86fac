//! Plans in nft's language: equal to the golden files, and those mean the same to `nft -f` as the messages that we send.

use std::fs;
use std::path::PathBuf;

use cni_netfilter::{
    ChainName, DnsRedirect, DnsTarget, Forwarding, Ingress, IngressPolicy, MacGuard, Masquerade, Nftables,
    PortForwards, PublishedOnly, Snat,
};

use crate::inside::{forwards, inside, masquerade, owner, ruleset, run, shared};

fn masquerades() -> [Masquerade; 5] {
    let to = |to: &str, of: Masquerade| Masquerade { to: Some(to.parse().unwrap()), ..of };
    [
        to("192.0.2.7", masquerade("c3", "10.1.0.4", "10.1.0.0/20")),
        to("2001:db8::7", masquerade("c3", "fd00::4", "fd00::/64")),
        masquerade("c1", "10.1.0.2", "10.1.0.0/20"),
        masquerade("c2", "10.1.0.3", "10.1.0.0/20"),
        masquerade("c1", "fd00::2", "fd00::/64"),
    ]
}

fn ports() -> [PortForwards; 4] {
    let mut four = forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 192.0.2.1:53 5353", "sctp 0.0.0.0:7 70"]);
    four.guard_localnet = true;
    four.exclude = vec!["10.96.0.0/12".parse().unwrap(), "192.0.2.53".parse().unwrap()];
    let mut six = forwards("c1", "fd00::2/64", &["tcp 8080 80", "tcp [2001:db8::1]:81 8081"]);
    six.snat = Snat::All;
    let mut conditional = forwards("c2", "10.1.0.3/24", &["tcp 9090 80"]);
    conditional.snat = Snat::Off;
    conditional.conditions = [
        "ip saddr { 192.0.2.0/24, 198.51.100.0/23, 203.0.113.7 }",
        "ip daddr != 10.0.0.0/8",
        "iifname != \"wg*\"",
        "oifname \"eth0\"",
        "meta mark & 0xff == 0x1",
        "tcp sport != 1-1023",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut of_protocols = forwards("c3", "10.1.0.4/24", &["tcp 9091 80"]);
    of_protocols.conditions = vec!["meta l4proto { tcp, udp }".to_owned()];
    [four, six, conditional, of_protocols]
}

/// Of both families, on all addresses and on one.
fn shares() -> [PortForwards; 2] {
    let four = forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 192.0.2.1:53 5353"]);
    let six = forwards("c1", "fd00::2/64", &["tcp 8080 80", "sctp [2001:db8::1]:81 8081"]);
    [shared("web", four), shared("web", six)]
}

fn mac_guard() -> MacGuard {
    MacGuard { owner: owner("c1"), port: "veth0".parse().unwrap(), mac: "02:00:00:00:00:01".parse().unwrap() }
}

fn forwarding(policy: IngressPolicy) -> Forwarding {
    Forwarding {
        owner: owner("c1"),
        addresses: vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        admin_chain: ChainName::ADMIN.parse().unwrap(),
        ingress: Some(Ingress { bridge: "cni0".parse().unwrap(), policy }),
        published_only: None,
    }
}

fn published_only() -> PublishedOnly {
    let addresses = vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    PublishedOnly { owner: owner("c1"), addresses, link: "cni0".parse().unwrap() }
}

fn open_ports() -> [PortForwards; 2] {
    [forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 53 5353"]), forwards("c1", "fd00::2/64", &["tcp 8080 80"])]
}

fn dns_redirect(container: &str, intercept: bool) -> DnsRedirect {
    let target = |client: &str, resolver: &str| DnsTarget {
        client: client.parse().unwrap(),
        resolver: resolver.parse().unwrap(),
    };
    DnsRedirect {
        owner: owner(container),
        interface: "cni0".parse().unwrap(),
        targets: vec![target("10.1.0.2", "10.1.0.1:10053"), target("fd00::2", "[fd00::1]:10053")],
        intercept,
    }
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with the golden file. With `UPDATE_GOLDEN=1` the file is written instead, to be read before it is committed.
fn is_golden(name: &str, printed: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden(name), printed).unwrap();
    }
    let expected = fs::read_to_string(golden(name)).unwrap();
    assert_eq!(printed, expected, "{name}");
}

#[test]
fn plans_are_the_golden_files() {
    is_golden("masquerade.nft", &Nftables::print_masquerade(&masquerades()).unwrap());
    is_golden("ports.nft", &Nftables::print_ports(&ports()).unwrap());
    is_golden("shares.nft", &Nftables::print_ports(&shares()).unwrap());
    is_golden("mac_guard.nft", &Nftables::print_mac_guard(&mac_guard()));
    is_golden("published_only.nft", &Nftables::print_published_only(&published_only()).unwrap());
    is_golden("open_ports.nft", &Nftables::print_open_ports(&open_ports()).unwrap());
    is_golden("dns_redirect.nft", &Nftables::print_dns_redirect(&dns_redirect("c1", false)).unwrap());
    is_golden("dns_intercept.nft", &Nftables::print_dns_redirect(&dns_redirect("c1", true)).unwrap());
    is_golden("same_bridge.nft", &Nftables::print_forwarding(&forwarding(IngressPolicy::SameBridge)).unwrap());
    is_golden("isolated.nft", &Nftables::print_forwarding(&forwarding(IngressPolicy::Isolated)).unwrap());
}

/// The rule set as lines that each name their table and their chain or set. The kernel lists elements in any order, and
/// tables and chains in the order of their creation; rules keep their order.
fn sorted() -> Vec<String> {
    let (mut table, mut block, mut rule) = (String::new(), String::new(), 0);
    let mut lines = Vec::new();
    for line in ruleset().lines().filter(|line| !line.trim().is_empty()) {
        let text = line.trim().trim_start_matches("elements = { ").trim_end_matches([',', '}', ' ']);
        match line.len() - line.trim_start().len() {
            0 => table = text.to_owned(),
            1 => (block, rule) = (text.to_owned(), 0),
            _ if line.contains("\" : ") || line.contains("comment \"") => lines.push(format!("{table} {block} {text}")),
            _ => {
                rule += 1;
                lines.push(format!("{table} {block} rule {rule}: {text}"));
            }
        }
    }
    lines.sort();
    lines
}

/// What is added to an empty namespace lists as the golden file does that was loaded by `nft`.
fn means(name: &str, add: impl FnOnce(&Nftables)) {
    run("nft flush ruleset");
    add(&Nftables::open().unwrap());
    let ours = sorted();
    assert!(ours.len() > 3, "{ours:?}");
    run(&format!("nft flush ruleset; nft -f {}", golden(name).display()));
    assert_eq!(ours, sorted(), "{name}");
}

#[test]
fn nft_understands_the_golden_files_as_the_kernel_got_them() {
    inside("print::nft_understands_the_golden_files_as_the_kernel_got_them", || {
        means("masquerade.nft", |nft| drop(nft.add_masquerade(&masquerades()).unwrap()));
        means("ports.nft", |nft| drop(nft.add_ports(&ports()).unwrap()));
        means("shares.nft", |nft| drop(nft.add_ports(&shares()).unwrap()));
        means("mac_guard.nft", |nft| nft.add_mac_guard(&mac_guard()).unwrap());
        means("published_only.nft", |nft| nft.add_published_only(&published_only()).unwrap());
        means("open_ports.nft", |nft| nft.add_open_ports(&open_ports()).unwrap());
        means("dns_redirect.nft", |nft| nft.add_dns_redirect(&dns_redirect("c1", false)).unwrap());
        means("dns_intercept.nft", |nft| nft.add_dns_redirect(&dns_redirect("c1", true)).unwrap());
        means("same_bridge.nft", |nft| {
            drop(nft.add_forwarding(&forwarding(IngressPolicy::SameBridge), false).unwrap());
        });
        means("isolated.nft", |nft| {
            drop(nft.add_forwarding(&forwarding(IngressPolicy::Isolated), false).unwrap());
        });
    });
}
