//! Going back from backend nftables to the Go plugins: the commands of docs/install.md remove what the DEL of the Go plugins
//! leaves, and no rules of the Go plugins.

use std::path::Path;

use cni_tests::packets::{Outside, Proto, Server, ask, at};
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel, netns, rules, verdict};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![improved("what_gos_del_leaves_is_cleared_as_documented", cleared)]
}

/// The commands of the section, in the order of the page.
fn documented() -> Vec<String> {
    let text = include_str!("../../../docs/install.md");
    let (_, section) = text.split_once("## Going back to the Go plugins").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    section.split("```sh\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

fn plugins(bridge: &str) -> [Value; 3] {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]});
    [
        json!({"type": "bridge", "bridge": bridge, "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
            "macspoofchk": true, "hairpinMode": true, "ipam": ipam}),
        json!({"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}),
        json!({"type": "firewall", "backend": "nftables", "ingressPolicy": "same-bridge"}),
    ]
}

fn tables(node: &Netns) -> String {
    node.sh(&["nft", "list", "tables"])
}

fn cleared(sb: &Sandbox) {
    let go = sb.with_plugins(Path::new("/usr/lib/cni"));
    if !go.has("firewall") {
        verdict::skip("no Go plugins here");
    }
    let (node, outside) = (sb.node(), sb.outside());
    netns::sh(&["sh", "-c", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP"]);
    // As newer Go plugins name their tables.
    let gos = ["inet cni_plugins_masquerade", "ip cni_hostport", "ip6 cni_hostport", "inet another"];
    gos.iter().for_each(|table| drop(netns::sh(&["sh", "-c", &format!("nft add table {table}")])));
    let chain = Chain::new("net1", "1.0.0", &plugins("cni0"));
    let mut one = Attachment::new("c1", &sb.container("c1")).publish(&[(8080, 80, "tcp")]);
    chain.add(sb, &mut one);
    chain.try_del(&go, &one);
    assert!(tables(&node).contains("cni_firewall") && tables(&node).contains("cni_ports"));
    let ns = sb.container("c2");
    let mut two = Attachment::new("c2", &ns).publish(&[(9090, 80, "tcp")]);
    chain.add(&go, &mut two);

    let commands = documented();
    assert_eq!(commands.len(), 2, "{commands:?}");
    let said = netns::sh(&["sh", "-c", &format!("({}) 2>&1", commands[0])]);
    assert_eq!(said, "");
    for ours in ["cni_masquerade", "cni_ports", "cni_firewall", "cni_macspoof"] {
        let there = tables(&node).lines().any(|line| line.ends_with(&format!(" {ours}")));
        assert!(!there, "{ours} is left: {}", tables(&node));
    }
    gos.iter().for_each(|table| assert!(tables(&node).contains(table), "{table} is gone"));
    assert!(rules::naming(&node, "(nftables)").is_empty(), "{:?}", rules::naming(&node, "(nftables)"));
    let left = rules::naming(&node, &one.ip(false));
    assert!(left.is_empty(), "{left:?}");
    let _world = Server::start(&outside.ns, "world", 7000);
    assert!(ask(&ns, Proto::Tcp, at(Outside::V4, 7000)).is_ok(), "Go's container goes on");
    chain.try_del(&go, &two);

    netns::sh(&["sh", "-c", &format!("nft add table ip cni_localnet; {}", commands[1])]);
    assert!(!tables(&node).contains("cni_localnet"));
    assert_eq!(kernel::sysctl(&node, "ipv4/conf/cni0/route_localnet").as_deref(), Some("0"));
}
