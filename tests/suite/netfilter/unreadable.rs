//! Tables and tools of iptables that can't be read: one with rules that only nft can show (iptables-nft says so with exit
//! status 0), and tools that are broken or missing, in all families or in one.

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, Server, ask, at};
use cni_tests::{Attachment, Chain, Netns, Sandbox, sandbox};
use serde_json::{Value, json};

use crate::case::{Case, improved};
use cni_tests::conf::firewall;
use cni_tests::story::{Container, Story};

const PORT: u16 = 8080;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("nftables_is_chosen", chosen),
        improved("explicit_iptables_says_why", explicit),
        improved("what_was_there_before_is_checked", checked),
        improved("what_was_there_before_is_removed", |sb| removed(sb, true)),
        improved("what_was_there_before_is_removed_without_result", |sb| removed(sb, false)),
        improved("what_was_there_before_is_collected", collected),
        improved("a_port_is_still_held", held),
        improved("broken_tools_remove_what_iptables_nft_made", |sb| broken(sb, Some(BROKEN))),
        improved("missing_tools_leave_nothing_of_iptables_nft", |sb| broken(sb, None)),
        improved("broken_tools_and_nothing_to_remove", nothing_there),
        improved("broken_ip6tables_concerns_ipv6", |sb| one_family(sb, "ip6tables")),
        improved("broken_iptables_concerns_ipv4", |sb| one_family(sb, "iptables")),
    ]
}

/// What a tool says whose kernel module is gone.
const BROKEN: &str = "echo 'cannot initialize table nat: Table does not exist' >&2; exit 3";

/// bridge with masquerading, portmap and firewall; without a backend, the node chooses.
fn chain(sb: &Sandbox, backend: Option<Backend>, subnets: &[&str]) -> Chain {
    sb.needs("portmap", "1.1.0");
    let backend_or_iptables = backend.unwrap_or(Backend::Iptables);
    let mut plugins = [
        conf::masquerading(backend_or_iptables),
        conf::portmap(backend_or_iptables),
        firewall(backend_or_iptables, ""),
    ];
    let keys = ["ipMasqBackend", "backend", "backend"];
    for (plugin, key) in plugins.iter_mut().zip(keys).filter(|_| backend.is_none()) {
        plugin.as_object_mut().unwrap().remove(key);
    }
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    let ipam = plugins[0]["ipam"].as_object_mut().unwrap();
    ipam.insert("ranges".to_owned(), ranges.into());
    Chain::new("story", "1.1.0", &plugins)
}

const V4: &str = "10.88.0.0/24";
const V6: &str = "fd00:88::/64";

fn story<'a>(sb: &'a Sandbox, backend: Option<Backend>, subnets: &[&str]) -> Story<'a> {
    let chain = chain(sb, backend, subnets);
    Story { chain, ..Story::start(sb, Backend::Nftables) }
}

/// Rules as tailscale, firewalld or an administrator make them, in the tables that iptables-nft uses.
fn spoil(node: &Netns) {
    std::fs::create_dir_all("/run/cni-test").unwrap();
    let nat = "chain POSTROUTING { type nat hook postrouting priority 100; ip%s saddr %a masquerade; }";
    let filter = "chain FORWARD { type filter hook forward priority 0; ct state established accept; }";
    let tables = [("ip", "", "203.0.113.9"), ("ip6", "6", "2001:db8::9")].map(|(family, six, address)| {
        let nat = nat.replace("%s", six).replace("%a", address);
        format!("table {family} nat {{ {nat}\n }}\ntable {family} filter {{ {filter}\n }}\n")
    });
    std::fs::write("/run/cni-test/spoil.nft", tables.concat()).unwrap();
    node.sh(&["nft", "-f", "/run/cni-test/spoil.nft"]);
    for tool in ["iptables-save", "ip6tables-save"] {
        assert!(!node.sh(&[tool, "-t", "nat"]).contains("*nat"), "{tool} can show it after all");
    }
}

/// The lines of the tables of iptables-nft that contain one of `parts`.
fn left(node: &Netns, parts: &[&str]) -> Vec<String> {
    let list = |place: &(&str, &str)| node.sh(&["nft", "list", "table", place.0, place.1]);
    let tables = [("ip", "nat"), ("ip6", "nat"), ("ip", "filter"), ("ip6", "filter")];
    let there =
        |place: &&(&str, &str)| node.sh(&["nft", "list", "tables"]).contains(&format!("{} {}\n", place.0, place.1));
    let text: String = tables.iter().filter(there).map(list).collect();
    text.lines().filter(|line| parts.iter().any(|part| line.contains(part))).map(str::to_owned).collect()
}

const OF_CONTAINERS: [&str; 3] = ["CNI-DN-", "10.88.0.", "fd00:88::"];

fn reaches(story: &Story, name: &str) {
    for address in [Outside::NODE_V4, Outside::NODE_V6] {
        let answer = ask(&story.outside.ns, Proto::Tcp, at(address, PORT)).unwrap();
        assert!(answer.starts_with(&format!("{name} ")), "{answer}");
    }
}

fn chosen(sb: &Sandbox) {
    let story = story(sb, None, &[V4, V6]);
    spoil(&story.node);
    story.chain.status(sb).silent();
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    reaches(&story, "web");
    assert!(left(&story.node, &["CNI-"]).is_empty(), "no rule of this plugin is in a table that can't be read");
    story.chain.check(sb, &web.at).silent();
    story.chain.del(sb, &web.at);
    assert_eq!(left(&story.node, &["203.0.113.9", "2001:db8::9"]).len(), 2, "the rules of others stay");
}

fn explicit(sb: &Sandbox) {
    let story = story(sb, Some(Backend::Iptables), &[V4, V6]);
    spoil(&story.node);
    for plugin in story.chain.plugins() {
        let error = Chain::new("story", "1.1.0", std::slice::from_ref(plugin)).status(sb).error();
        assert_eq!(error.code, 50, "{error:?}");
        let table = if plugin["type"] == "firewall" { "filter" } else { "nat" };
        error.names(&["iptables", table, "nft list table", "nftables"]);
    }
    let ns = sb.container("web");
    let mut web = Attachment::new("web", &ns).publish(&[(PORT, 80, "tcp")]);
    story.chain.try_add(sb, &mut web).expect_err("CHECK could not read the table").error().names(&["iptables", "nat"]);
    story.chain.del(sb, &web);
    assert!(left(&story.node, &OF_CONTAINERS).is_empty());
}

/// A container that was attached with iptables, before others' rules came.
fn before<'a>(sb: &'a Sandbox, names: &[&str]) -> (Story<'a>, Vec<Container>) {
    let story = story(sb, Some(Backend::Iptables), &[V4, V6]);
    let there = (0u16..).zip(names).map(|(n, name)| story.attach(name, &[(PORT + n, 80, "tcp"), (53 + n, 53, "udp")]));
    let there: Vec<_> = there.collect();
    spoil(&story.node);
    (story, there)
}

fn checked(sb: &Sandbox) {
    let (mut story, there) = before(sb, &["web", "other"]);
    reaches(&story, "web");
    story.chain.check(sb, &there[0].at).silent();
    story.chain = chain(sb, None, &[V4, V6]);
    story.chain.check(sb, &there[0].at).silent();
    // What is missing is still noticed.
    let rule = story.node.sh(&["sh", "-c", "nft -a list table ip nat | grep -m1 'tcp dport 8080 .*dnat'"]);
    let handle = rule.rsplit(' ').next().unwrap().trim().to_owned();
    let chain = story.node.sh(&[
        "sh",
        "-c",
        "nft list table ip nat | grep -m1 -B9 'tcp dport 8080 .*dnat' | grep -o 'CNI-DN-[0-9a-f]*'",
    ]);
    story.node.sh(&["nft", "delete", "rule", "ip", "nat", chain.lines().last().unwrap(), "handle", &handle]);
    story.chain.check(sb, &there[0].at).error().names(&["8080"]);
    story.chain.check(sb, &there[1].at).silent();
}

fn removed(sb: &Sandbox, with_result: bool) {
    let (story, there) = before(sb, &["web", "other"]);
    let (web, other) = (&there[0].at, &there[1].at);
    let mut blind = Attachment::new("web", &there[0].ns).publish(&[(PORT, 80, "tcp")]);
    blind.result = web.result.clone().filter(|_| with_result);
    story.chain.del(sb, &blind);
    let addresses = [web.ip(false), web.ip(true)];
    let of_web: Vec<String> = addresses
        .iter()
        .flat_map(|ip| [format!("saddr {ip} "), format!("daddr {ip} "), format!("to {ip}:"), format!("to [{ip}]:")])
        .collect();
    assert!(left(&story.node, &of_web.iter().map(String::as_str).collect::<Vec<_>>()).is_empty());
    assert!(!left(&story.node, &[&other.ip(false)]).is_empty(), "the other one's stay");
    story.chain.check(sb, other).silent();
    story.chain.del(sb, other);
    let left = left(&story.node, &OF_CONTAINERS);
    assert!(left.is_empty(), "{left:?}");
}

fn collected(sb: &Sandbox) {
    let (story, there) = before(sb, &["web", "other"]);
    story.chain.gc(sb, &[("other", "eth0")]).silent();
    story.chain.check(sb, &there[1].at).silent();
    assert!(left(&story.node, &[&format!("saddr {} ", there[0].at.ip(false))]).is_empty());
    story.chain.gc(sb, &[]).silent();
    let left = left(&story.node, &OF_CONTAINERS);
    assert!(left.is_empty(), "{left:?}");
}

fn held(sb: &Sandbox) {
    let (mut story, there) = before(sb, &["old"]);
    story.chain = chain(sb, None, &[V4, V6]);
    let ns = sb.container("new");
    let mut new = Attachment::new("new", &ns).publish(&[(PORT, 80, "tcp")]);
    let error = story.chain.try_add(sb, &mut new).expect_err("the port is held").error();
    error.names(&["8080", "old"]);
    story.chain.del(sb, &new);
    reaches(&story, "old");
    story.chain.del(sb, &there[0].at);
    let new = story.attach("newer", &[(PORT, 80, "tcp")]);
    reaches(&story, "newer");
    story.chain.del(sb, &new.at);
}

/// PATH with fakes of both families' tools in front, or without any tools.
fn without_tools(sb: &Sandbox, script: Option<&str>, families: &[&str]) -> String {
    let Some(script) = script else { return "/nowhere".to_owned() };
    for tool in families {
        for part in ["", "-save", "-restore"] {
            sb.fake(&format!("{tool}{part}"), script);
        }
    }
    format!("{}:{}", sandbox::FAKES, std::env::var("PATH").unwrap())
}

fn broken(sb: &Sandbox, script: Option<&str>) {
    let mut story = story(sb, Some(Backend::Iptables), &[V4, V6]);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let other = story.attach("other", &[(PORT + 1, 80, "tcp")]);
    let path = without_tools(sb, script, &["iptables", "ip6tables"]);
    story.chain = chain(sb, Some(Backend::Iptables), &[V4, V6]).with_path(&path);
    story.chain.del(sb, &web.at);
    assert!(left(&story.node, &[&format!("saddr {} ", web.ip(false))]).is_empty());
    story.chain.gc(sb, &[]).silent();
    let left = left(&story.node, &OF_CONTAINERS);
    assert!(left.is_empty(), "{left:?}");
    drop(other);
}

/// A container that never got as far as rules, on a node where others have some.
fn nothing_there(sb: &Sandbox) {
    let mut story = story(sb, Some(Backend::Iptables), &[V4, V6]);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let path = without_tools(sb, Some(BROKEN), &["iptables", "ip6tables"]);
    story.chain = chain(sb, Some(Backend::Iptables), &[V4, V6]).with_path(&path);
    let ns = sb.container("never");
    let mut never = Attachment::new("never", &ns).publish(&[(9000, 80, "tcp")]);
    story.chain.try_add(sb, &mut never).expect_err("broken tools").error().names(&["iptables", "nftables"]);
    for plugin in story.chain.plugins() {
        let alone = Chain::new("story", "1.1.0", std::slice::from_ref(plugin)).with_path(&path);
        alone.del(sb, &never);
    }
    reaches(&story, "web");
    drop(web);
}

/// Tools of one family that don't work: networks of the other family are not affected, and for those of both the error names the tool.
fn one_family(sb: &Sandbox, tool: &str) {
    let (works, fails, family) = if tool == "iptables" { (V6, V4, "IPv4") } else { (V4, V6, "IPv6") };
    let mut story = story(sb, Some(Backend::Iptables), &[works]);
    let path = without_tools(sb, Some(BROKEN), &[tool]);
    story.chain = chain(sb, Some(Backend::Iptables), &[works]).with_path(&path);
    story.chain.status(sb).silent();
    let web = story.attach_bare("web", &[(PORT, 80, "tcp")]);
    let _server = Server::start(&web.ns, "web", 80);
    let node = if works == V4 { Outside::NODE_V4 } else { Outside::NODE_V6 };
    assert!(ask(&story.outside.ns, Proto::Tcp, at(node, PORT)).unwrap().starts_with("web "));
    story.chain.check(sb, &web.at).silent();
    story.chain.del(sb, &web.at);
    for subnets in [&[fails][..], &[works, fails]] {
        let chain = chain(sb, Some(Backend::Iptables), subnets).with_path(&path);
        let error = Chain::new("story", "1.1.0", &chain.plugins()[..1]).with_path(&path).status(sb).error();
        assert_eq!(error.code, 50, "{error:?}");
        error.names(&[tool, family, "nftables"]);
        let ns = sb.container(&format!("c{}", subnets.len()));
        let mut at = Attachment::new("c", &ns).publish(&[(PORT, 80, "tcp")]);
        let error = chain.try_add(sb, &mut at).expect_err("one family doesn't work").error();
        error.names(&[tool, "nftables"]);
        chain.del(sb, &at);
    }
    let left = left(&story.node, &OF_CONTAINERS);
    assert!(left.is_empty(), "{left:?}");
}
