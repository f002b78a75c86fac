//! firewall on a node whose iptables tools are the old ones: every case of backend iptables again.

use std::path::Path;

use cni_tests::conf::Backend;
use cni_tests::legacy;
use cni_tests::{Sandbox, netns, verdict};

use super::{add, call, check, go, matrix, mixed, state, traffic};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let themes = [
        ("traffic", traffic::cases()),
        ("matrix", matrix::cases()),
        ("state", state::cases()),
        ("check", check::cases()),
        ("go", go::cases()),
        ("mixed", mixed::with_bridges()),
    ];
    let mut cases = Vec::new();
    for (theme, stories) in themes {
        let by_backend = stories.iter().any(|case| case.name().starts_with("iptables::"));
        let with_tools = stories.into_iter().filter(|case| !by_backend || case.name().starts_with("iptables::"));
        cases.extend(with_tools.map(|case| case.below(theme).after(legacy::install)));
    }
    cases.push(improved("tools_beside_a_dropping_chain_of_the_new", beside_nft));
    cases.push(improved("tables_that_come_later_are_named", later));
    cases
}

/// The old tools can't let through what the new ones' chain drops.
fn beside_nft(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    legacy::install();
    let conf = add(sb, Backend::Iptables, "open", "c1", 2);
    call(sb, "CHECK", "c1", &conf).silent();
    netns::sh(&["iptables-nft", "-P", "FORWARD", "DROP"]);
    call(sb, "CHECK", "c1", &conf).error().names(&["ip filter FORWARD"]);
    let status = sb.plugin("firewall", "STATUS").conf(&conf).run();
    status.silent();
    assert!(status.stderr.contains("ip filter FORWARD"), "{}", status.stderr);
}

/// Another program brings legacy tables to a node with a policy of nftables, whose own tools are not legacy.
fn later(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    if !Path::new("/usr/sbin/iptables-legacy").exists() {
        verdict::skip("no iptables-legacy here");
    }
    let conf = add(sb, Backend::Nftables, "same-bridge", "c1", 2);
    let status = || {
        let outcome = sb.plugin("firewall", "STATUS").conf(&conf).run();
        outcome.silent();
        outcome.stderr
    };
    assert_eq!(status(), "");
    netns::sh(&["iptables-legacy", "-N", "OTHER"]);
    let named = status();
    assert!(named.contains("ingress policy") && named.contains("CNI-ISOLATION-STAGE-1"), "{named:?}");
    call(sb, "CHECK", "c1", &conf).error().names(&["CNI-ISOLATION-STAGE-1"]);
    add(sb, Backend::Nftables, "same-bridge", "c2", 3);
    assert_eq!(status(), "");
    call(sb, "CHECK", "c1", &conf).silent();
}
