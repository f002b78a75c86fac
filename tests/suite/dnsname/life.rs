//! The verbs, what they refuse, and what they leave.

use cni_tests::{Sandbox, Snapshot, conf};
use serde_json::json;

use super::*;
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("nothing_is_left", nothing_left),
        improved("the_resolver_ends_with_the_last_container", ends),
        improved("del_twice_and_without_anything", del_alone),
        improved("del_of_a_container_that_was_never_added", never_added),
        improved("check_passes", check),
        improved("check_names_what_differs", differences),
        improved("gc_removes_what_is_not_valid", gc),
        improved("status", status),
        improved("a_network_without_a_gateway", no_gateway),
        improved("needs_a_previous_result", alone),
        improved("a_resolver_that_cannot_listen_fails_add", no_port),
        improved("a_resolver_that_cannot_start_fails_add", no_start),
        improved("files_are_for_root_and_the_resolver_only", modes),
        improved("a_network_called_as_the_lock", lock_name),
        improved("names_of_the_runtime_that_are_none", no_name),
        improved("other_keys_of_cni_args", name_from),
        improved("a_second_add_is_the_last_word", again),
        improved("through_ptp", ptp),
    ];
    for version in cni_tests::plugins::VERSIONS {
        cases.push(improved(format!("result_{version}"), move |sb| at_version(sb, version)));
    }
    for (name, keys, parts) in [
        ("alias", json!({"runtimeConfig": {"aliases": ["ok", "a b"]}}), &["aliases[1]", "a b"][..]),
        ("address_as_alias", json!({"runtimeConfig": {"aliases": ["10.0.0.1"]}}), &["aliases[0]", "10.0.0.1"]),
        ("domain", json!({"domainName": "a..b"}), &["domainName", "a..b"]),
        ("upstream", json!({"upstream": ["dns.example"]}), &["upstream[0]", "dns.example"]),
        ("loop", json!({"upstream": ["10.77.0.1"]}), &["upstream[0]", "10.77.0.1", "gateway"]),
        ("name_from", json!({"nameFrom": ["A=B"]}), &["nameFrom[0]", "A=B"]),
        ("backend", json!({"backend": "pf"}), &["backend", "pf"]),
    ] {
        cases.push(improved(format!("refused_{name}"), move |sb| {
            let (_end, net) = (Reaper, chain(sb, &keys));
            let ns = sb.container("c1");
            net.try_add(sb, &mut named("c1", &ns)).unwrap_err().error().names(parts);
            assert!(resolvers().is_empty() && !std::path::Path::new(STATE).exists());
            net.del(sb, &named("c1", &ns));
        }));
    }
    cases
}

/// A first life makes what is shared and stays: the bridge, tables without elements, the locks.
fn nothing_left(sb: &Sandbox) {
    let (_end, net, node) = (Reaper, chain(sb, &json!({})), sb.node());
    let life = || {
        let containers = ["web", "client"].map(|id| run(sb, &net, id));
        containers.iter().for_each(|one| net.del(sb, &one.at));
        containers.iter().for_each(|one| one.ns.delete());
        eventually("the resolver ends", || resolvers().is_empty());
    };
    life();
    let before = Snapshot::of(&[&node]);
    life();
    Snapshot::of(&[&node]).same_but(&before, &["/var/lib/cni", "link \"br-test\""]);
    let left: Vec<_> = fs::read_dir(STATE).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| [".lock", ".socket", "running"].contains(&name.as_str())), "{left:?}");
    assert!(!node.sh(&["nft", "list", "table", "ip", "cni_dnsname"]).contains("elements"));
    assert!(!node.sh(&["nft", "list", "ruleset"]).contains("dnsname plugin"), "the rule in INPUT goes");
}

fn ends(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    assert_eq!(resolvers().len(), 1);
    net.del(sb, &web.at);
    assert_eq!(resolvers().len(), 1);
    net.del(sb, &client.at);
    eventually("the resolver ends", || resolvers().is_empty());
    let again = run(sb, &net, "again");
    assert_eq!(found(&again.ns, "again").len(), 1);
    net.del(sb, &again.at);
    eventually("the resolver ends", || resolvers().is_empty());
}

fn del_alone(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    let bare = Chain::new("net", net.version(), &[json!({"type": "dnsname", "upstream": 7, "domainName": "a..b"})]);
    let gone = Attachment { result: None, args: None, ..web.at.clone() }.nowhere();
    bare.del(sb, &gone);
    bare.del(sb, &gone);
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "web.dns.test", A).code, NO_SUCH_NAME);
    assert!(!sb.node().sh(&["nft", "list", "table", "ip", "cni_dnsname"]).contains("id: web,"));
}

fn never_added(sb: &Sandbox) {
    let bare = Chain::new("net", sb.newest(&["dnsname"]), &[json!({"type": "dnsname"})]);
    bare.del(sb, &Attachment::new("c1", &sb.container("c1")));
    assert!(!std::path::Path::new(STATE).exists() && resolvers().is_empty());
}

fn check(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let web = run(sb, &net, "web");
    net.check(sb, &web.at).silent();
}

fn file_of(id: &str) -> std::path::PathBuf {
    let files = fs::read_dir(format!("{STATE}/net")).unwrap().map(|entry| entry.unwrap().path());
    let mut of_id = files.filter(|path| fs::read_to_string(path).unwrap().contains(&format!("\"{id}\"")));
    of_id.next().unwrap()
}

fn differences(sb: &Sandbox) {
    let (_end, net, node) = (Reaper, chain(sb, &json!({})), sb.node());
    let web = run(sb, &net, "web");
    node.sh(&["nft", "flush", "map", "ip", "cni_dnsname", "servers"]);
    net.check(sb, &web.at).error().names(&["redirection", &web.at.ip(false)]);
    let own = net.plugins()[1].clone();
    net.call(sb, "ADD", &own, &web.at, web.at.result.as_ref()).run().document();
    net.check(sb, &web.at).silent();
    let (path, text) = (file_of("web"), fs::read_to_string(file_of("web")).unwrap());
    fs::write(&path, text.replace("\"web\"", "\"wab\"")).unwrap();
    net.check(sb, &web.at).error().names(&["file", "wab"]);
    fs::remove_file(&path).unwrap();
    net.check(sb, &web.at).error().names(&["file", "found nothing"]);
}

fn gc(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    sb.needs("dnsname", "1.1.0");
    let (_web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    let other = network(sb, "other", 91, true, &json!({}));
    let far = run(sb, &other, "far");
    net.gc(sb, &[("client", "eth0")]).silent();
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "web.dns.test", A).code, NO_SUCH_NAME);
    assert_eq!(found(&client.ns, "client").len(), 1);
    assert_eq!(ask(&far.ns, "10.91.0.1", "far", A).addresses.len(), 1);
    assert!(!sb.node().sh(&["nft", "list", "table", "ip", "cni_dnsname"]).contains("id: web,"));
}

fn status(sb: &Sandbox) {
    sb.needs("dnsname", "1.1.0");
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    net.status(sb).silent();
    assert!(resolvers().is_empty() && !std::path::Path::new(STATE).exists());
    let _web = run(sb, &net, "web");
    net.status(sb).silent();
}

fn no_gateway(sb: &Sandbox) {
    let _end = Reaper;
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.91.0.0/24"}]]});
    let bridge = json!({"type": "bridge", "bridge": "br-closed", "ipam": ipam});
    let net = Chain::new("closed", sb.newest(&["bridge", "host-local", "dnsname"]), &[bridge, with(&json!({}))]);
    let ns = sb.container("c1");
    net.try_add(sb, &mut named("c1", &ns)).unwrap_err().error().names(&["closed", "gateway", "isGateway"]);
    assert!(resolvers().is_empty());
}

fn alone(sb: &Sandbox) {
    let net = Chain::new("net", sb.newest(&["dnsname"]), &[with(&json!({}))]);
    net.try_add(sb, &mut named("c1", &sb.container("c1"))).unwrap_err().error().names(&["chained"]);
}

fn no_port(sb: &Sandbox) {
    let (_end, net, node) = (Reaper, chain(sb, &json!({})), sb.node());
    let taken = node.run(|| UdpSocket::bind("0.0.0.0:10053").unwrap());
    let ns = sb.container("c1");
    let refused = net.try_add(sb, &mut named("c1", &ns)).unwrap_err();
    refused.error().names(&["listen", "10.77.0.1:10053", "in use"]);
    assert!(!std::path::Path::new(STATE).join("net").exists(), "the names are taken back");
    eventually("the resolver ends", || resolvers().is_empty());
    drop(taken);
    net.del(sb, &named("c1", &ns));
    let web = run(sb, &net, "web");
    assert_eq!(found(&web.ns, "web").len(), 1);
}

fn no_start(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    fs::create_dir_all(format!("{STATE}/.socket/occupied")).unwrap();
    let ns = sb.container("c1");
    net.try_add(sb, &mut named("c1", &ns)).unwrap_err().error().names(&["resolver"]);
    assert!(!std::path::Path::new(STATE).join("net").exists() && resolvers().is_empty());
}

fn modes(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let _web = run(sb, &net, "web");
    let mode = |path: &str| fs::metadata(path).map(|found| (found.mode() & 0o7777, found.uid(), found.gid())).unwrap();
    assert_eq!(mode(STATE), (0o2750, 0, 65534));
    assert_eq!(mode(&format!("{STATE}/net")), (0o2750, 0, 65534));
    assert_eq!(mode(file_of("web").to_str().unwrap()), (0o640, 0, 65534));
    for private in [".lock", ".socket", "running"] {
        assert_eq!(mode(&format!("{STATE}/{private}")).0, 0o600, "{private}");
    }
}

fn lock_name(sb: &Sandbox) {
    let _end = Reaper;
    let net = network(sb, "running", 91, true, &json!({}));
    let web = run(sb, &net, "web");
    assert_eq!(ask(&web.ns, "10.91.0.1", "web.running", A).addresses.len(), 1);
    net.del(sb, &web.at);
    eventually("the resolver ends", || resolvers().is_empty());
}

fn no_name(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let ns = sb.container("c1");
    let mut at = named("c1", &ns).with("aliases", json!(["alias"]));
    at.args = Some("IgnoreUnknown=1;K8S_POD_NAME=not/a/name".to_owned());
    net.add(sb, &mut at);
    assert_eq!((found(&ns, "alias").len(), found(&ns, "c1").len()), (1, 1));
}

fn name_from(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({"nameFrom": ["MY_NAME"]})));
    let ns = sb.container("c1");
    let mut at = named("c1", &ns);
    at.args = Some("IgnoreUnknown=1;K8S_POD_NAME=pod;MY_NAME=mine".to_owned());
    net.add(sb, &mut at);
    assert_eq!((found(&ns, "mine").len(), found(&ns, "pod.dns.test").len()), (1, 0));
    let default = network(sb, "default", 91, true, &json!({}));
    let ns = sb.container("c2");
    let mut at = named("c2", &ns);
    at.args = Some("IgnoreUnknown=1;NERDCTL_CNI_DHCP_HOSTNAME=host1".to_owned());
    default.add(sb, &mut at);
    assert_eq!(ask(&ns, "10.91.0.1", "host1", A).addresses.len(), 1);
}

fn again(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let web = run(sb, &net, "web");
    let own = net.plugins()[1].clone();
    let at = Attachment { args: Some("IgnoreUnknown=1;K8S_POD_NAME=other".to_owned()), ..web.at.clone() };
    net.call(sb, "ADD", &own, &at, web.at.result.as_ref()).run().document();
    assert_eq!((found(&web.ns, "other").len(), found(&web.ns, "web.dns.test").len()), (1, 1), "web is the ID too");
    net.del(sb, &web.at);
    eventually("the resolver ends", || resolvers().is_empty());
}

/// Each container has a link of its own there, with the same gateway.
fn ptp(sb: &Sandbox) {
    let _end = Reaper;
    let ipam = json!({"type": "host-local", "subnet": "10.91.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
    let net = Chain::new(
        "p2p",
        sb.newest(&["ptp", "host-local", "dnsname"]),
        &[json!({"type": "ptp", "ipam": ipam}), with(&json!({}))],
    );
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    assert_eq!(ask(&client.ns, "10.91.0.1", "web", A).addresses.len(), 1);
    net.del(sb, &web.at);
    assert_eq!(ask(&client.ns, "10.91.0.1", "web.dns.test", A).code, NO_SUCH_NAME);
    net.del(sb, &client.at);
    eventually("the resolver ends", || resolvers().is_empty());
}

fn at_version(sb: &Sandbox, version: &'static str) {
    sb.needs("dnsname", version);
    sb.needs("bridge", version);
    let (_end, net) = (Reaper, chain(sb, &json!({})).at_version(version));
    let ns = sb.container("web");
    let mut at = named("web", &ns);
    // Before 0.3.0 a result has no interfaces: it isn't known by which of the node's the questions come.
    if version < "0.3.0" {
        net.try_add(sb, &mut at).unwrap_err().error().names(&["gateway"]);
        return;
    }
    net.add(sb, &mut at);
    let result = at.result.clone().unwrap();
    assert_eq!((&result["cniVersion"], &result["dns"]["nameservers"][0]), (&json!(version), &json!(conf::V4_GATEWAY)));
    assert_eq!(found(&ns, "web").len(), 1);
    net.del(sb, &at);
}
