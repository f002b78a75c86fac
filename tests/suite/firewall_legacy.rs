//! firewall on a node whose iptables tools are the old ones: every case of backend iptables again.

use std::path::Path;

use cni_tests::conf::Backend;
use cni_tests::{Sandbox, netns, verdict};

use crate::case::{Case, improved};
use crate::firewall_state::{add, call};
use crate::{firewall, firewall_check, firewall_go, firewall_matrix, firewall_mixed, firewall_state};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let stories = [firewall::cases(), firewall_matrix::cases(), firewall_state::cases(), firewall_check::cases()];
    let with_tools = stories.into_iter().flatten().filter(|case| case.name().contains("::iptables_"));
    let again = |case: Case| {
        let name = case.name().replacen("::", "::legacy_", 1);
        case.after(name, use_legacy)
    };
    let mut cases: Vec<Case> =
        with_tools.chain(firewall_go::cases()).chain(firewall_mixed::with_bridges()).map(again).collect();
    cases.push(improved("firewall::legacy_tools_beside_a_dropping_chain_of_the_new", beside_nft));
    cases.push(improved("firewall::legacy_tables_that_come_later_are_named", later));
    cases
}

/// Makes `iptables` and all that belongs to it the legacy variant, in the case's own mount namespace.
fn use_legacy() {
    if !Path::new("/usr/sbin/iptables-legacy").exists() || !Path::new("/etc/alternatives/iptables").exists() {
        verdict::skip("no iptables-legacy among alternatives here");
    }
    let script = "mkdir -p /run/cni-test && cp -a /etc/alternatives /run/cni-test/ && cd /run/cni-test/alternatives && \
                  for tool in iptables ip6tables; do for part in '' -save -restore; do \
                  ln -sf /usr/sbin/$tool-legacy$part $tool$part; done; done && \
                  mount --bind /run/cni-test/alternatives /etc/alternatives && iptables -V";
    let version = netns::sh(&["sh", "-c", script]);
    assert!(version.contains("legacy"), "{version}");
}

/// The old tools can't let through what the new ones' chain drops.
fn beside_nft(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    use_legacy();
    let conf = add(sb, Backend::Iptables, "open", "c1", 2);
    call(sb, "CHECK", "c1", &conf).silent();
    netns::sh(&["iptables-nft", "-P", "FORWARD", "DROP"]);
    call(sb, "CHECK", "c1", &conf).error().names(&["ip filter FORWARD"]);
    let error = sb.plugin("firewall", "STATUS").conf(&conf).run().error();
    assert_eq!(error.code, 51, "{error:?}");
    error.names(&["ip filter FORWARD"]);
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
