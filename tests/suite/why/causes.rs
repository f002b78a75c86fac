//! Causes that keep a packet away: each made on purpose, named by `why`, and confirmed by a packet that doesn't arrive.

use std::net::TcpListener;

use cni_tests::conf::{self, Backend, V4_GATEWAY};
use cni_tests::packets::{Outside, Proto, Server, ask, at, ping, silent};
use cni_tests::story::{CHAIN, Container, Story};
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel};
use serde_json::{Value, json};

use super::{arrives, place, why};
use crate::case::{Case, improved};

type Scenario = fn(&Sandbox);

/// The cases of this theme: each is named after its cause.
pub(crate) fn cases() -> Vec<Case> {
    let causes: [(&str, Scenario); 36] = [
        ("no_link", no_link),
        ("link_down", link_down),
        ("other_end_down", other_end_down),
        ("no_address", no_address),
        ("no_route", no_route),
        ("wrong_route", wrong_route),
        ("blackhole_route", blackhole_route),
        ("forwarding_off", forwarding_off),
        ("forward_policy_of_iptables", forward_policy_of_iptables),
        ("forward_policy_of_legacy_iptables", forward_policy_of_legacy_iptables),
        ("forward_policy_of_nft", forward_policy_of_nft),
        ("chain_of_another_program", chain_of_another_program),
        ("rule_in_a_chain_of_iptables", rule_in_a_chain_of_iptables),
        ("input_drop", input_drop),
        ("isolated_nftables", |sb| isolated(sb, Backend::Nftables)),
        ("isolated_iptables", |sb| isolated(sb, Backend::Iptables)),
        ("same_bridge_nftables", |sb| same_bridge(sb, Backend::Nftables)),
        ("same_bridge_iptables", |sb| same_bridge(sb, Backend::Iptables)),
        ("port_isolation", port_isolation),
        ("no_hairpin", no_hairpin),
        ("not_published", not_published),
        ("published_on_another_address_nftables", |sb| published_on_another_address(sb, Backend::Nftables)),
        ("published_on_another_address_iptables", |sb| published_on_another_address(sb, Backend::Iptables)),
        ("published_for_udp_nftables", |sb| published_for_udp(sb, Backend::Nftables)),
        ("published_for_udp_iptables", |sb| published_for_udp(sb, Backend::Iptables)),
        ("nobody_listens", nobody_listens),
        ("listens_on_loopback", listens_on_loopback),
        ("route_localnet_off", route_localnet_off),
        ("guard", guard),
        ("rp_filter", rp_filter),
        ("mtu", mtu),
        ("vlan", vlan),
        ("no_masquerade", no_masquerade),
        ("neighbour_unresolved", neighbour_unresolved),
        ("neighbour_wrong", neighbour_wrong),
        ("disable_ipv6", disable_ipv6),
    ];
    let mut cases: Vec<Case> = causes.into_iter().map(|(name, story)| improved(name, story)).collect();
    cases.push(improved("mac_spoof", mac_spoof));
    cases.push(improved("rule_that_is_not_understood", not_understood));
    cases
}

/// A node with `web`, which serves port 80 and publishes it as 8080, and `near` beside it.
struct Scene<'a> {
    story: Story<'a>,
    web: Container,
    near: Container,
}

fn scene(sb: &Sandbox) -> Scene<'_> {
    scene_of(Story::start(sb, Backend::Nftables))
}

fn scene_of(story: Story<'_>) -> Scene<'_> {
    let web = story.attach("web", &[(8080, 80, "tcp")]);
    let near = story.attach("near", &[]);
    Scene { story, web, near }
}

/// With the bridge's configuration changed.
fn scene_with<'a>(sb: &'a Sandbox, key: &str, value: impl Into<Value>) -> Scene<'a> {
    let value = value.into();
    scene_of(Story::with(sb, Backend::Nftables, |bridge, _| bridge[key] = value.clone()))
}

/// The answer names the cause, and a packet doesn't arrive.
fn is_named(sb: &Sandbox, cause: &str, from: &Netns, to: &str, port: u16) -> Value {
    is_named_of(sb, cause, from, Proto::Tcp, to, port)
}

fn is_named_of(sb: &Sandbox, cause: &str, from: &Netns, proto: Proto, to: &str, port: u16) -> Value {
    let answer = why(sb, from, &place(to, port), proto);
    assert_eq!(answer["verdict"], "stopped", "{answer:#}");
    assert_eq!(answer["cause"], cause, "{answer:#}");
    assert!(answer["advice"].is_string(), "says what to do: {answer:#}");
    assert!(silent(from, proto, at(to, port)), "a packet gets through: {answer:#}");
    answer
}

/// Before the cause is there, nothing keeps the packet away: then the test would show nothing.
fn gets_through(sb: &Sandbox, from: &Netns, to: &str, port: u16) {
    let answer = why(sb, from, &place(to, port), Proto::Tcp);
    assert!(arrives(&answer), "{answer:#}");
    ask(from, Proto::Tcp, at(to, port)).unwrap_or_else(|error| panic!("{error}: {answer:#}"));
}

fn no_link(sb: &Sandbox) {
    let scene = scene(sb);
    let bare = sb.container("bare");
    let answer = is_named(sb, "no-link", &bare, &scene.web.ip(false), 80);
    assert!(answer["reason"].as_str().unwrap().contains("bare"), "{answer:#}");
}

fn link_down(sb: &Sandbox) {
    let Scene { web, near, story: _story } = scene(sb);
    gets_through(sb, &near.ns, &web.ip(false), 80);
    near.ns.sh(&["ip", "link", "set", "eth0", "down"]);
    is_named(sb, "link-down", &near.ns, &web.ip(false), 80);
}

fn other_end_down(sb: &Sandbox) {
    let Scene { story, web, near } = scene(sb);
    story.node.sh(&["ip", "link", "set", &near.host_link(), "down"]);
    is_named(sb, "no-carrier", &near.ns, &web.ip(false), 80);
}

fn no_address(sb: &Sandbox) {
    let Scene { web, near, story: _story } = scene(sb);
    near.ns.sh(&["ip", "addr", "flush", "dev", "eth0"]);
    is_named(sb, "no-address", &near.ns, &web.ip(false), 80);
}

fn no_route(sb: &Sandbox) {
    let Scene { story, near, web: _web } = scene(sb);
    let _server = Server::start(&story.outside.ns, "outside", 80);
    gets_through(sb, &near.ns, Outside::V4, 80);
    near.ns.sh(&["ip", "route", "del", "default"]);
    is_named(sb, "no-route", &near.ns, Outside::V4, 80);
}

fn wrong_route(sb: &Sandbox) {
    let Scene { story, near, web: _web } = scene(sb);
    let _server = Server::start(&story.outside.ns, "outside", 80);
    near.ns.sh(&["ip", "route", "replace", "default", "via", "10.77.0.99"]);
    let answer = is_named(sb, "neighbour-unresolved", &near.ns, Outside::V4, 80);
    assert!(answer["reason"].as_str().unwrap().contains("10.77.0.99"), "{answer:#}");
}

fn blackhole_route(sb: &Sandbox) {
    let Scene { story, near, web: _web } = scene(sb);
    let _server = Server::start(&story.outside.ns, "outside", 80);
    story.node.sh(&["ip", "route", "add", "blackhole", "192.0.2.2/32"]);
    is_named(sb, "no-route", &near.ns, Outside::V4, 80);
}

fn forwarding_off(sb: &Sandbox) {
    let Scene { story, near, web: _web } = scene(sb);
    let _server = Server::start(&story.outside.ns, "outside", 80);
    kernel::set_sysctl(&story.node, "ipv4/ip_forward", "0");
    is_named(sb, "forwarding-off", &near.ns, Outside::V4, 80);
}

fn forward_policy_of_iptables(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    gets_through(sb, &story.outside.ns, Outside::NODE_V4, 8080);
    story.node.sh(&["iptables", "-P", "FORWARD", "DROP"]);
    let answer = is_named(sb, "rule", &story.outside.ns, Outside::NODE_V4, 8080);
    assert!(answer["reason"].as_str().unwrap().contains("policy DROP"), "{answer:#}");
}

fn forward_policy_of_legacy_iptables(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    story.node.sh(&["iptables-legacy", "-P", "FORWARD", "DROP"]);
    let answer = is_named(sb, "rule", &story.outside.ns, Outside::NODE_V4, 8080);
    assert!(answer["reason"].as_str().unwrap().contains("legacy"), "{answer:#}");
}

fn forward_policy_of_nft(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    story.node.sh(&[
        "nft",
        "add table inet site; add chain inet site forward { type filter hook forward priority 0; policy drop; }",
    ]);
    let answer = is_named(sb, "rule", &story.outside.ns, Outside::NODE_V4, 8080);
    assert!(answer["reason"].as_str().unwrap().contains("inet site"), "{answer:#}");
}

fn chain_of_another_program(sb: &Sandbox) {
    let Scene { story, web, near: _near } = scene(sb);
    let rules = format!(
        "add table inet site; add set inet site closed {{ type ipv4_addr . inet_service; }}; \
         add element inet site closed {{ {} . 80 }}; add chain inet site containers; \
         add chain inet site forward {{ type filter hook forward priority 5; policy accept; }}; \
         add rule inet site forward ct state vmap {{ established : accept, new : jump containers }}; \
         add rule inet site containers ip daddr . tcp dport @closed counter drop",
        web.ip(false)
    );
    story.node.sh(&["nft", &rules]);
    let answer = is_named(sb, "rule", &story.outside.ns, Outside::NODE_V4, 8080);
    assert!(answer["reason"].as_str().unwrap().contains("@closed"), "the rule itself: {answer:#}");
}

fn rule_in_a_chain_of_iptables(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    let node = &story.node;
    node.sh(&["iptables", "-N", "SITE"]);
    node.sh(&["iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"]);
    node.sh(&["iptables", "-A", "FORWARD", "-i", "up+", "-j", "SITE"]);
    node.sh(&[
        "iptables",
        "-A",
        "SITE",
        "-p",
        "tcp",
        "-m",
        "multiport",
        "--dports",
        "22,80:90",
        "-m",
        "comment",
        "--comment",
        "a rule",
        "-j",
        "REJECT",
    ]);
    let answer = is_named(sb, "rule", &story.outside.ns, Outside::NODE_V4, 8080);
    assert!(answer["reason"].as_str().unwrap().contains("SITE"), "{answer:#}");
}

fn input_drop(sb: &Sandbox) {
    let Scene { story, near, web: _web } = scene(sb);
    let _server = Server::start(&story.node, "node", 7777);
    gets_through(sb, &near.ns, V4_GATEWAY, 7777);
    story.node.sh(&["iptables", "-A", "INPUT", "-i", "br-test", "-p", "tcp", "--dport", "7777", "-j", "DROP"]);
    is_named(sb, "rule", &near.ns, V4_GATEWAY, 7777);
}

/// With the firewall plugin and a policy.
fn with_policy<'a>(sb: &'a Sandbox, backend: Backend, policy: &str) -> Scene<'a> {
    if !sb.has("firewall") {
        cni_tests::verdict::skip("no firewall in the directory under test");
    }
    let mut story = Story::start(sb, backend);
    let plugins = [conf::masquerading(backend), conf::portmap(backend), conf::firewall(backend, policy)];
    story.chain = Chain::new("story", sb.newest(&CHAIN), &plugins);
    scene_of(story)
}

fn isolated(sb: &Sandbox, backend: Backend) {
    let Scene { story, web, near } = with_policy(sb, backend, "isolated");
    let key = "bridge/bridge-nf-call-iptables";
    if kernel::sysctl(&story.node, key).is_none() {
        cni_tests::verdict::skip("no br_netfilter in this kernel");
    }
    kernel::set_sysctl(&story.node, key, "0");
    gets_through(sb, &near.ns, &web.ip(false), 80);
    kernel::set_sysctl(&story.node, key, "1");
    is_named(sb, "ingress-policy", &near.ns, &web.ip(false), 80);
}

fn same_bridge(sb: &Sandbox, backend: Backend) {
    let Scene { web, near, story: _story } = with_policy(sb, backend, "same-bridge");
    gets_through(sb, &near.ns, &web.ip(false), 80);
    let bridge = json!({"type": "bridge", "bridge": "br-other", "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.78.0.0/24"}]]}});
    let ns = sb.container("far");
    let plugins = [bridge, conf::firewall(backend, "same-bridge")];
    Chain::new("other", sb.newest(&CHAIN), &plugins).add(sb, &mut Attachment::new("far", &ns));
    is_named(sb, "ingress-policy", &ns, &web.ip(false), 80);
}

fn port_isolation(sb: &Sandbox) {
    let Scene { web, near, story: _story } = scene_with(sb, "portIsolation", true);
    is_named(sb, "port-isolation", &near.ns, &web.ip(false), 80);
}

fn no_hairpin(sb: &Sandbox) {
    let Scene { story, web, near: _near } = scene_with(sb, "hairpinMode", false);
    let key = "bridge/bridge-nf-call-iptables";
    if kernel::sysctl(&story.node, key).is_none() {
        cni_tests::verdict::skip("no br_netfilter in this kernel");
    }
    kernel::set_sysctl(&story.node, key, "1");
    is_named(sb, "no-hairpin", &web.ns, Outside::NODE_V4, 8080);
}

fn not_published(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    is_named(sb, "not-published", &story.outside.ns, Outside::NODE_V4, 9090);
}

fn published_on_another_address(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]);
    let _web = story.attach_with("web", |at| at.with("portMappings", mapping.clone()));
    is_named(sb, "published-on-another-address", &story.outside.ns, Outside::NODE_V4, 8080);
}

fn published_for_udp(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let _web = story.attach("web", &[(8080, 80, "udp")]);
    is_named(sb, "published-for-another-protocol", &story.outside.ns, Outside::NODE_V4, 8080);
}

fn nobody_listens(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Nftables);
    let _web = story.attach_bare("web", &[(8080, 80, "tcp")]);
    is_named(sb, "nobody-listens", &story.outside.ns, Outside::NODE_V4, 8080);
}

fn listens_on_loopback(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Nftables);
    let web = story.attach_bare("web", &[(8080, 80, "tcp")]);
    web.ns.sh(&["ip", "link", "set", "lo", "up"]);
    let _listener = web.ns.run(|| TcpListener::bind(at("127.0.0.1", 80)).expect("listen"));
    is_named(sb, "listens-elsewhere", &story.outside.ns, Outside::NODE_V4, 8080);
}

fn route_localnet_off(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    gets_through(sb, &story.node, "127.0.0.1", 8080);
    kernel::set_sysctl(&story.node, "ipv4/conf/br-test/route_localnet", "0");
    is_named(sb, "loopback", &story.node, "127.0.0.1", 8080);
}

fn guard(sb: &Sandbox) {
    let Scene { near, story: _story, web: _web } = scene(sb);
    crate::portmap::route_loopback(&near.ns, "eth0", V4_GATEWAY);
    is_named(sb, "guard", &near.ns, "127.0.0.1", 8080);
}

fn rp_filter(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    let outside = &story.outside.ns;
    outside.sh(&["ip", "addr", "add", "198.51.100.9/32", "dev", "lo"]);
    outside.sh(&["ip", "route", "change", "192.0.2.0/24", "dev", "eth0", "src", "198.51.100.9"]);
    story.node.sh(&["ip", "route", "add", "198.51.100.0/24", "via", "10.77.0.9", "dev", "br-test"]);
    kernel::set_sysctl(&story.node, "ipv4/conf/up0/rp_filter", "1");
    is_named(sb, "rp-filter", outside, Outside::NODE_V4, 8080);
}

fn mtu(sb: &Sandbox) {
    let Scene { web, near, story: _story } = scene(sb);
    let answer = why(sb, &near.ns, &place(&web.ip(false), 80), Proto::Tcp);
    assert!(!answer["notes"].to_string().contains("\"mtu\""), "{answer:#}");
    web.ns.sh(&["ip", "link", "set", "eth0", "mtu", "1000"]);
    let answer = why(sb, &near.ns, &place(&web.ip(false), 80), Proto::Tcp);
    assert!(arrives(&answer), "{answer:#}");
    let notes = answer["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note["cause"] == "mtu"), "{answer:#}");
    assert!(ping(&near.ns, &web.ip(false)), "a small one");
    let large = ["ping", "-n", "-q", "-c", "1", "-w", "1", "-M", "do", "-s", "1400", &web.ip(false)];
    assert!(!near.ns.holds(&large), "a large one gets through");
}

fn vlan(sb: &Sandbox) {
    sb.needs_vlan_filtering();
    let version = sb.newest(&CHAIN);
    let attach = |id: &str, vlan: u16| {
        let bridge = json!({"type": "bridge", "bridge": "br-vlan", "vlan": vlan,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}]]}});
        let ns = sb.container(id);
        let mut attachment = Attachment::new(id, &ns);
        Chain::new("vlans", version, &[bridge]).add(sb, &mut attachment);
        (ns, attachment)
    };
    let (inside, web) = attach("web", 100);
    let (same, _) = attach("same", 100);
    let (other, _) = attach("other", 200);
    let _server = Server::start(&inside, "web", 80);
    gets_through(sb, &same, &web.ip(false), 80);
    is_named(sb, "vlan", &other, &web.ip(false), 80);
}

fn no_masquerade(sb: &Sandbox) {
    let Scene { story, near, web: _web } = scene_with(sb, "ipMasq", false);
    let _server = Server::start(&story.outside.ns, "outside", 80);
    is_named(sb, "no-way-back", &near.ns, Outside::V4, 80);
}

fn neighbour_unresolved(sb: &Sandbox) {
    let Scene { near, story: _story, web: _web } = scene(sb);
    is_named(sb, "neighbour-unresolved", &near.ns, "10.77.0.200", 80);
}

fn neighbour_wrong(sb: &Sandbox) {
    let Scene { web, near, story: _story } = scene(sb);
    let neighbour =
        ["ip", "neigh", "replace", &web.ip(false), "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent"];
    near.ns.sh(&neighbour);
    is_named(sb, "neighbour-wrong", &near.ns, &web.ip(false), 80);
}

fn disable_ipv6(sb: &Sandbox) {
    let Scene { web, near, story: _story } = scene(sb);
    kernel::set_sysctl(&near.ns, "ipv6/conf/eth0/disable_ipv6", "1");
    is_named(sb, "ipv6-disabled", &near.ns, &web.ip(true), 80);
}

fn mac_spoof(sb: &Sandbox) {
    let Scene { web, near, story: _story } = scene_with(sb, "macspoofchk", true);
    gets_through(sb, &near.ns, &web.ip(false), 80);
    near.ns.sh(&["ip", "link", "set", "eth0", "address", "02:00:00:00:00:77"]);
    is_named(sb, "mac-spoof", &near.ns, &web.ip(false), 80);
}

/// Never guessed: the packet may arrive, and the rule is named.
fn not_understood(sb: &Sandbox) {
    let Scene { story, web: _web, near: _near } = scene(sb);
    story.node.sh(&[
        "nft",
        "add table inet site; add chain inet site forward { type filter hook forward priority 5; }; \
        add rule inet site forward meta skuid 4711 drop comment \"strange\"",
    ]);
    let answer = why(sb, &story.outside.ns, &place(Outside::NODE_V4, 8080), Proto::Tcp);
    assert_eq!(answer["verdict"], "unsure", "{answer:#}");
    assert!(answer["notes"].to_string().contains("meta skuid 4711 drop"), "the rule itself: {answer:#}");
    // Neither is a drop certain if the rule before it may accept.
    let rules = "flush chain inet site forward; add rule inet site forward meta skuid 4711 accept; add rule inet site forward drop";
    story.node.sh(&["nft", rules]);
    let answer = why(sb, &story.outside.ns, &place(Outside::NODE_V4, 8080), Proto::Tcp);
    assert_eq!((&answer["verdict"], &answer["cause"]), (&json!("unsure"), &json!("rule")), "{answer:#}");
}
