//! firewall: CHECK and STATUS.

use cni_tests::conf::{self, Backend};
use cni_tests::{Sandbox, Snapshot, netns};

use super::{add, call};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases =
        vec![improved("status_without_iptables", no_tool), improved("dropping_legacy_chain_is_named", legacy_drops)];
    for backend in Backend::ALL {
        let name = |what: &str| format!("{}::{what}", backend.name());
        cases.push(improved(name("check_changes_nothing"), move |sb| check_is_pure(sb, backend)));
        cases.push(improved(name("check_names_what_is_gone"), move |sb| noticed(sb, backend)));
        cases.push(improved(name("the_next_add_mends_for_all"), move |sb| mended(sb, backend)));
    }
    cases
}

/// Deletes each thing that can be deleted by itself and is needed, and puts it back by ADD.
fn noticed(sb: &Sandbox, backend: Backend) {
    let conf = add(sb, backend, "isolated", "c1", 2);
    let rows: &[(&str, &str)] = match backend {
        Backend::Iptables => &[
            ("iptables -D CNI-FORWARD -s 10.9.0.2 -j ACCEPT", "-s 10.9.0.2"),
            ("ip6tables -D CNI-FORWARD -s fd00:9::2 -j ACCEPT", "-s fd00:9::2"),
            ("iptables -F CNI-FORWARD", "CNI-ADMIN"),
            ("iptables -F FORWARD", "-A FORWARD"),
            ("iptables -D CNI-FORWARD-PUBLISHED 1", "CNI-FORWARD-PUBLISHED"),
            ("iptables -D CNI-ISOLATION-STAGE-1 1", "-i br0 -o br0"),
            ("ip6tables -F CNI-ISOLATION-STAGE-2", "-o br0"),
        ],
        Backend::Nftables => &[
            ("nft delete element inet cni_firewall accept4 { 10.9.0.2 }", "10.9.0.2"),
            ("nft delete element inet cni_firewall accept6 { fd00:9::2 }", "fd00:9::2"),
            ("nft delete element inet cni_firewall behind4 { 10.9.0.2 }", "10.9.0.2"),
            ("nft delete element inet cni_firewall closed { \"br0\" }", "br0"),
            ("nft delete element inet cni_firewall inside { \"br0\" . \"br0\" }", "br0"),
            ("nft flush chain inet cni_firewall isolate", "isolate"),
            ("nft flush chain inet cni_firewall accepting", "saddr @accept4"),
            ("nft flush chain inet cni_firewall refuse", "refuse"),
            ("nft delete table inet cni_firewall", "cni_firewall"),
        ],
    };
    for (deed, named) in rows {
        call(sb, "CHECK", "c1", &conf).silent();
        netns::sh(&["sh", "-c", deed]);
        call(sb, "CHECK", "c1", &conf).error().names(&[named]);
        call(sb, "ADD", "c1", &conf).result();
    }
}

/// What all attachments share is repaired by the next ADD.
fn mended(sb: &Sandbox, backend: Backend) {
    // So that iptables-nft has its chains.
    netns::sh(&["sh", "-c", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP"]);
    let conf = add(sb, backend, "isolated", "c1", 2);
    let rows: &[(&str, &str)] = match backend {
        Backend::Iptables => &[
            ("iptables -F FORWARD", "-A FORWARD"),
            ("iptables -D CNI-FORWARD 1", "CNI-ADMIN"),
            ("ip6tables -D CNI-FORWARD 2", "CNI-FORWARD-PUBLISHED"),
            ("iptables -F CNI-ISOLATION-STAGE-1", "-i br0 -o br0"),
            ("ip6tables -F CNI-ISOLATION-STAGE-2", "-o br0"),
        ],
        Backend::Nftables => &[
            ("nft flush chain inet cni_firewall isolate", "isolate"),
            ("nft flush chain inet cni_firewall accepting", "accepting"),
            ("nft flush chain inet cni_firewall unmark", "unmark"),
            ("nft flush chain inet cni_firewall refuse", "refuse"),
            ("nft flush chain inet cni_firewall pass", "pass"),
            ("nft insert rule inet cni_firewall refuse accept", "refuse"),
            ("nft insert rule inet cni_firewall isolate accept", "isolate"),
            ("nft flush chain inet cni_firewall refuse; nft add rule inet cni_firewall refuse accept", "refuse"),
            ("nft flush chain ip filter FORWARD", "ip filter FORWARD"),
        ],
    };
    for (deed, named) in rows {
        netns::sh(&["sh", "-c", deed]);
        call(sb, "CHECK", "c1", &conf).error().names(&[named]);
        let next = add(sb, backend, "isolated", "next", 3);
        call(sb, "CHECK", "c1", &conf).silent();
        call(sb, "DEL", "next", &next).silent();
    }
}

fn check_is_pure(sb: &Sandbox, backend: Backend) {
    // The listing itself makes iptables' own tables.
    drop(Snapshot::of(&[&sb.node()]));
    let before = Snapshot::of(&[&sb.node()]);
    call(sb, "CHECK", "c1", &conf::firewall_alone(sb, backend, "isolated", 2)).error();
    Snapshot::of(&[&sb.node()]).same_as(&before);
    let conf = add(sb, backend, "isolated", "c1", 2);
    let before = Snapshot::of(&[&sb.node()]);
    call(sb, "CHECK", "c1", &conf).silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

fn legacy_drops(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let conf = add(sb, Backend::Iptables, "open", "c1", 2);
    netns::sh(&["iptables-legacy", "-P", "FORWARD", "DROP"]);
    call(sb, "CHECK", "c1", &conf).error().names(&["FORWARD", "legacy"]);
    let status = sb.plugin("firewall", "STATUS").conf(&conf).run();
    status.silent();
    assert!(status.stderr.contains("FORWARD") && status.stderr.contains("legacy"), "{}", status.stderr);
}

fn no_tool(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    std::fs::create_dir_all("/run/cni-test/empty").unwrap();
    let conf = conf::firewall_alone(sb, Backend::Iptables, "open", 2);
    let error = sb.plugin("firewall", "STATUS").env("PATH", "/run/cni-test/empty").conf(&conf).run().error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["iptables"]);
    let conf = conf::firewall_alone(sb, Backend::Nftables, "open", 2);
    sb.plugin("firewall", "STATUS").env("PATH", "/run/cni-test/empty").conf(&conf).run().silent();
}
