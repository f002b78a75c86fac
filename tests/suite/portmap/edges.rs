//! portmap: ranges, conditions, mappings of one container that contradict each other, sockets of the node, guards.

use super::{PORT, mapping, start, with_each_backend, with_legacy_tools};
use crate::case::{Case, improved};
use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, kernel, rules};
use serde_json::{Value, json};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = with_each_backend(&[
        ("conditions_are_the_networks_own", conditions),
        ("a_port_that_leads_nowhere_is_named", nowhere),
        ("a_port_on_all_addresses_leaves_those_of_services", services),
        ("kube_proxy_is_left_alone", kube),
        ("a_range_of_ports", range),
        ("nothing_is_done_without_ports", idle),
        ("host_socket_is_a_warning", listener),
        ("ptp_guard_stays", ptp_guard),
        ("a_contradiction_is_refused", contradiction),
        ("an_address_decides_over_all", address_first),
        ("a_refusal_names_address_and_holder", refusal),
    ]);
    cases.push(with_legacy_tools("a_range_of_ports", range));
    cases.push(improved("status_is_silent_or_says_what_is_missing", status));
    cases
}

/// 10 000 ports of one container.
fn range(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let mapping = json!([{"hostPort": 20000, "containerPort": 80, "protocol": "tcp", "range": 10000}]);
    let web = story.attach_with("web", |at| at.with("portMappings", mapping.clone()));
    let _last = Server::start(&web.ns, "last", 10_079);
    for to in [Outside::NODE_V4, Outside::NODE_V6] {
        assert!(ask(&story.outside.ns, Proto::Tcp, at(to, 20_000)).unwrap().starts_with("web "));
        assert!(ask(&story.outside.ns, Proto::Tcp, at(to, 29_999)).unwrap().starts_with("last "));
        assert!(silent(&story.outside.ns, Proto::Tcp, at(to, 30_000)));
    }
    story.chain.check(sb, &web.at).silent();
    let ns = sb.container("two");
    let mut two = Attachment::new("two", &ns).publish(&[(25_000, 80, "tcp")]);
    story.chain.try_add(sb, &mut two).expect_err("in the range").error().names(&["25000", "web"]);
    story.chain.del(sb, &two);
    story.chain.del(sb, &web.at);
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 20_000)));
    assert!(rules::naming(&story.node, "id: web").is_empty());
}

/// Tools that fail, a result, and no ports.
fn idle(sb: &Sandbox, backend: Backend) {
    for tool in
        ["iptables", "iptables-restore", "iptables-save", "ip6tables", "ip6tables-restore", "ip6tables-save", "nft"]
    {
        sb.fake(tool, "echo $0 >>/run/started; exit 1");
    }
    let mut conf = conf::named(sb.newest(&["portmap"]), conf::portmap(backend));
    let version = conf["cniVersion"].clone();
    conf["prevResult"] = json!({"cniVersion": version, "ips": [{"address": "10.1.2.3/24"}], "dns": {}});
    let before = Snapshot::of(&[&sb.node()]);
    let ns = sb.container("c1");
    let call = |verb| sb.plugin("portmap", verb).attach("c1", "eth0", &ns).env("PATH", cni_tests::sandbox::FAKES);
    call("ADD").conf(&conf).run().result();
    call("CHECK").conf(&conf).run().silent();
    call("DEL").conf(&conf).run().silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
    assert!(!std::path::Path::new("/run/started").exists(), "a tool was started");
}

/// conmon and CRI-O hold such a socket themselves, as a reservation; so it can't be an error.
fn listener(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let _host = Server::start(&story.node, "host", PORT);
    let ns = sb.container("web");
    let bridge = Chain::new("story", story.chain.version(), &[conf::masquerading(backend)]);
    let mut at_bridge = Attachment::new("web", &ns).publish(&[(PORT, 80, "tcp")]);
    bridge.add(sb, &mut at_bridge);
    let portmap = conf::portmap(backend);
    let call = |verb| story.chain.call(sb, verb, &portmap, &at_bridge, at_bridge.result.as_ref()).run();
    let added = call("ADD");
    added.result();
    assert!(added.stderr.contains("8080") && added.stderr.contains("tcp"), "a warning: {added}");
    let _web = Server::start(&ns, "web", 80);
    let answer = ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap();
    assert!(answer.starts_with("web "), "the container is served: {answer}");
    call("DEL").silent();
    let answer = ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap();
    assert!(answer.starts_with("host "), "{answer}");
}

/// Every container of ptp has a link of its own, with `route_localnet` on: one guard is for all, before and after them.
fn ptp_guard(sb: &Sandbox, backend: Backend) {
    sb.needs("ptp", "1.1.0");
    let story = start(sb, backend);
    let ipam =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.80.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let ptp = json!({"type": "ptp", "ipam": ipam});
    let chain = Chain::new("ptp", "1.1.0", &[ptp, conf::portmap(backend)]);
    let guard = || {
        let lines = rules::all(&story.node);
        lines.into_iter().filter(|line| line.contains("cni_localnet") && line.contains("127")).collect::<Vec<_>>()
    };
    let mut ends = Vec::new();
    for (n, id) in (0..).zip(["c1", "c2"]) {
        let ns = sb.container(id);
        let mut to = Attachment::new(id, &ns).publish(&[(PORT + n, 80, "tcp")]);
        chain.add(sb, &mut to);
        ends.push((ns, to));
    }
    let there = guard();
    assert_eq!(there.len(), 2, "{:?}", rules::all(&story.node));
    let link = ends[0].1.result.as_ref().unwrap()["interfaces"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(kernel::sysctl(&story.node, &format!("ipv4/conf/{link}/route_localnet")).as_deref(), Some("1"));
    chain.del(sb, &ends[0].1);
    chain.gc(sb, &[]).silent();
    assert_eq!(guard(), there);
}

/// A port on every address, where the node has addresses that exist to hold services.
fn services(sb: &Sandbox, backend: Backend) {
    sb.needs("portmap", "1.1.0");
    let story = start(sb, backend);
    has_services(&story.node);
    let _services = [PORT, 53].map(|port| Server::start(&story.node, "service", port));
    let neighbour = story.attach("neighbour", &[]);
    let bare = Chain::new("story", story.chain.version(), &[conf::masquerading(backend)]);
    let on =
        |host_ip: &str, port: u16| json!({"hostPort": port, "containerPort": 80, "protocol": "tcp", "hostIP": host_ip});
    let answers = |from: &Netns, to: &str, port: u16, who: &str| {
        let answer = ask(from, Proto::Tcp, at(to, port)).unwrap();
        assert!(answer.starts_with(who), "{to}:{port} from {}: {answer}, not {who}", from.name);
    };
    for (n, exclude, who) in [
        (0, None, "service"),
        (1, Some(json!([])), "web"),
        (2, Some(json!(["10.96.0.0/12", "fd00:96::/64"])), "service"),
    ] {
        let mut portmap = conf::portmap(backend);
        if let Some(exclude) = exclude {
            portmap["excludeHostIPs"] = exclude;
        }
        let ns = sb.container(&format!("web{n}"));
        let mappings = json!([on("", PORT), on("", 53), on("10.96.0.10", 9000)]);
        let mut web = Attachment::new(&format!("web{n}"), &ns).with("portMappings", mappings);
        bare.add(sb, &mut web);
        let call = |verb: &str| story.chain.call(sb, verb, &portmap, &web, web.result.as_ref()).run();
        call("ADD").result();
        let _web = Server::start(&ns, "web", 80);
        call("CHECK").silent();
        for from in [&neighbour.ns, &story.node] {
            answers(from, "10.96.0.10", PORT, who);
            answers(from, "fd00:96::10", PORT, who);
            answers(from, "10.96.0.10", 9000, "web");
            answers(from, Outside::NODE_V4, PORT, "web");
        }
        answers(&story.outside.ns, Outside::NODE_V6, PORT, "web");
        answers(&story.node, "127.0.0.1", 53, "web");
        // systemd-resolved's, unless the configuration says what is excluded.
        answers(
            &story.node,
            if n == 0 { "127.0.0.53" } else { "127.0.0.1" },
            53,
            if n == 0 { "service" } else { "web" },
        );
        call("DEL").silent();
        let left = rules::naming(&story.node, &format!("id: web{n}"));
        let left: Vec<_> = left.iter().filter(|rule| !rule.contains("masquerade")).collect();
        assert!(left.is_empty() || backend == Backend::Iptables, "{left:?}");
        answers(&story.node, Outside::NODE_V4, PORT, "service");
        bare.del(sb, &web);
    }
    let mut portmap = conf::portmap(backend);
    portmap["excludeHostIPs"] = json!(["10.96.0.0/12", "services"]);
    let at = &neighbour.at;
    let refused = story.chain.call(sb, "ADD", &portmap, at, at.result.as_ref()).run().error();
    refused.names(&["excludeHostIPs[1]", "services"]);
}

/// As kube-proxy does in its mode ipvs, but with a link of a kind that every kernel has.
fn has_services(node: &Netns) {
    for args in [
        &["link", "add", "kube-ipvs0", "type", "bridge"][..],
        &["addr", "add", "10.96.0.10/32", "dev", "kube-ipvs0"],
        &["addr", "add", "fd00:96::10/128", "dev", "kube-ipvs0", "nodad"],
        &["link", "set", "kube-ipvs0", "up"],
    ] {
        node.sh(&[&["ip"], args].concat());
    }
}

/// A mapping for a family in which the container has no address.
fn nowhere(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let bridge =
        json!({"type": "bridge", "bridge": "br-four", "ipam": {"type": "host-local", "subnet": "10.81.0.0/24"}});
    let portmap = conf::portmap(backend);
    let chain = Chain::new("four", story.chain.version(), &[bridge]);
    let ns = sb.container("c1");
    let mapping = |port: u16, range: u16, host_ip: &str| json!({"hostPort": port, "containerPort": 80, "range": range, "protocol": "tcp", "hostIP": host_ip});
    let mut web = Attachment::new("c1", &ns);
    chain.add(sb, &mut web);
    let add = |list: Value| {
        let at = web.clone().with("portMappings", list);
        let added = chain.call(sb, "ADD", &portmap, &at, at.result.as_ref()).run();
        added.result();
        added.stderr
    };
    assert_eq!(add(json!([mapping(8080, 1, ""), mapping(8081, 1, "0.0.0.0"), mapping(8082, 1, Outside::NODE_V4)])), "");
    let said = add(json!([mapping(8080, 1, ""), mapping(8090, 10, "::"), mapping(70, 1, Outside::NODE_V6)]));
    assert_eq!(said.lines().count(), 1, "{said}");
    for words in ["8090-8099/tcp", &format!("[{}]:70/tcp", Outside::NODE_V6), "IPv6", "not published"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    assert!(!said.contains("8080"), "{said}");
    // Of a network without addresses.
    let layer2 = Chain::new("two", story.chain.version(), &[json!({"type": "bridge", "bridge": "br-two"})]);
    let ns = sb.container("c2");
    web = Attachment::new("c2", &ns);
    layer2.add(sb, &mut web);
    let at = web.clone().with("portMappings", json!([mapping(8080, 1, "")]));
    let added = layer2.call(sb, "ADD", &portmap, &at, at.result.as_ref()).run();
    assert!(added.stderr.contains("8080/tcp") && added.stderr.contains("no address"), "{added}");
}

fn status(sb: &Sandbox) {
    sb.needs("portmap", "1.1.0");
    let status = |keys: Value, path: Option<&str>| {
        let mut conf = conf::named("1.1.0", keys);
        conf["type"] = "portmap".into();
        let call = sb.plugin("portmap", "STATUS").conf(&conf);
        path.iter().fold(call, |call, path| call.env("PATH", path)).run()
    };
    for (keys, path) in [(json!({}), None), (json!({}), Some("/nowhere")), (json!({"backend": "nftables"}), None)] {
        let said = status(keys.clone(), path);
        said.silent();
        assert_eq!(said.stderr, "", "{keys}");
    }
    // What ADD repairs is no reason.
    for table in ["ip cni_ports", "ip cni_localnet"] {
        sb.node().sh(&["nft", &format!("add table {table} {{ flags dormant; }}")]);
    }
    status(json!({"backend": "nftables"}), None).silent();
    let error = status(json!({"backend": "iptables"}), Some("/nowhere")).error();
    assert_eq!(error.code, 50);
    error.names(&["iptables", "PATH"]);
}

/// Each network serves only whom its own conditions name, whichever came last.
fn conditions(sb: &Sandbox, backend: Backend) {
    let iptables = backend == Backend::Iptables;
    let (v4, v6) = if iptables {
        (json!(["-s", "192.0.2.0/24"]), json!(["!", "-s", Outside::V6]))
    } else {
        (json!(["ip saddr 192.0.2.0/24", "tcp sport 1024-65535"]), json!([format!("ip6 saddr != {}", Outside::V6)]))
    };
    let mut story = start(sb, backend);
    let mut portmap = conf::portmap(backend);
    portmap["conditionsV4"] =
        if iptables { json!(["-s", "198.51.100.0/24"]) } else { json!(["ip saddr 198.51.100.0/24"]) };
    let open = Chain::new(story.chain.name(), story.chain.version(), &[conf::masquerading(backend), portmap]);
    let mut portmap = conf::portmap(backend);
    portmap["conditionsV4"] = v4;
    portmap["conditionsV6"] = v6;
    let mut bridge = conf::masquerading(backend);
    bridge["bridge"] = "br-closed".into();
    bridge["ipam"] =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.81.0.0/24"}], [{"subnet": "fd00:81::/64"}]]});
    let closed = Chain::new("closed", open.version(), &[bridge, portmap]);
    story.chain = closed.clone();
    let some = story.attach("some", &[(PORT, 80, "tcp")]);
    story.chain = open;
    let all = story.attach("all", &[(9000, 80, "tcp")]);
    story.outside.ns.sh(&["ip", "addr", "add", "198.51.100.1/32", "dev", "eth0"]);
    story.node.sh(&["ip", "route", "add", "198.51.100.1/32", "dev", "up0"]);
    let from = |source: &str, port: u16| {
        let to = format!("TCP:{}:{port},bind={source},connect-timeout=1", Outside::NODE_V4);
        story.outside.ns.run(|| {
            let out = std::process::Command::new("socat").args(["-T1", "-", &to]).output().unwrap();
            String::from_utf8_lossy(&out.stdout).into_owned()
        })
    };
    assert_eq!(from(Outside::V4, PORT), format!("some {}", Outside::V4));
    assert_eq!(from("198.51.100.1", PORT), "");
    assert_eq!(from("198.51.100.1", 9000), "all 198.51.100.1");
    assert_eq!(from(Outside::V4, 9000), "");
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V6, PORT)), "that source is excluded");
    assert!(ask(&story.node, Proto::Tcp, at(Outside::NODE_V6, PORT)).unwrap().starts_with("some "));
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V6, 9000)).unwrap().starts_with("all "));
    closed.check(sb, &some.at).silent();
    story.chain.check(sb, &all.at).silent();
    closed.del(sb, &some.at);
    assert!(rules::naming(&story.node, "some").is_empty());
    assert_eq!(from("198.51.100.1", 9000), "all 198.51.100.1");
    assert_eq!(from(Outside::V4, 9000), "", "its own conditions stay");
    story.chain.del(sb, &all.at);
    let left: Vec<_> =
        ["198.51.100", "when-"].iter().flat_map(|condition| rules::naming(&story.node, condition)).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn kube(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let rules = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
        -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
        -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
        -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
        -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n-A KUBE-POSTROUTING -j MASQUERADE\nCOMMIT\n";
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/kube", rules).unwrap();
    story.node.sh(&["sh", "-c", "iptables-restore --noflush </run/cni-test/kube"]);
    let kube = || rules::naming(&story.node, "KUBE-");
    let before = kube();
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let answer = ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap();
    assert_eq!(answer, format!("web {}", Outside::V4), "their mark isn't set");
    let answer = ask(&web.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap();
    assert_eq!(answer, format!("web {}", conf::V4_GATEWAY), "and isn't needed");
    story.chain.del(sb, &web.at);
    assert_eq!(kube(), before);
}

fn contradiction(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let web = story.attach("web", &[]);
    let portmap = conf::portmap(backend);
    let add = |list: Value| {
        let at = web.at.clone().with("portMappings", list);
        story.chain.call(sb, "ADD", &portmap, &at, at.result.as_ref()).run()
    };
    let before = Snapshot::of(&[&story.node]);
    let range = |host: u16, container: u16| json!({"hostPort": host, "containerPort": container, "protocol": "tcp", "range": 100});
    for (list, named) in [
        (json!([mapping(PORT, 80, "tcp", ""), mapping(PORT, 81, "tcp", "")]), ["portMappings[0]", "[1]", "80", "81"]),
        (
            json!([range(8000, 80), mapping(1, 1, "tcp", ""), range(8050, 80)]),
            ["portMappings[0]", "[2]", "8050", "130"],
        ),
    ] {
        add(list).error().names(&named);
        Snapshot::of(&[&story.node]).same_as(&before);
    }
    for value in [-1, 65_536] {
        let list = json!([{"hostPort": 80, "containerPort": 80, "protocol": "tcp", "range": value}]);
        add(list).error().names(&["portMappings[0].range", &value.to_string(), "65535"]);
        Snapshot::of(&[&story.node]).same_as(&before);
    }
    add(json!([mapping(PORT, 80, "tcp", ""), mapping(PORT, 80, "tcp", ""), range(9000, 100), range(9050, 150)]))
        .result();
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("web "));
}

/// Whichever is listed first.
fn address_first(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let ns = sb.container("web");
    let _all = Server::start(&ns, "all", 80);
    let _one = Server::start(&ns, "one", 81);
    let mut list = vec![mapping(PORT, 80, "tcp", ""), mapping(PORT, 81, "tcp", Outside::NODE_V4)];
    for _ in 0..2 {
        let mut web = Attachment::new("web", &ns).with("portMappings", list.clone().into());
        story.chain.add(sb, &mut web);
        let answer = |to| ask(&story.outside.ns, Proto::Tcp, at(to, PORT)).unwrap();
        assert!(answer(Outside::NODE_V4).starts_with("one "), "{list:?}");
        assert!(answer(Outside::NODE_V6).starts_with("all "), "{list:?}");
        story.chain.check(sb, &web).silent();
        story.chain.del(sb, &web);
        list.reverse();
    }
}

fn refusal(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let _one =
        story.attach_with("one", |at| at.with("portMappings", json!([mapping(PORT, 80, "udp", Outside::NODE_V4)])));
    let ns = sb.container("two");
    let mut two = Attachment::new("two", &ns).with("portMappings", json!([mapping(PORT, 80, "udp", Outside::NODE_V4)]));
    let error = story.chain.try_add(sb, &mut two).expect_err("it is taken").error();
    let text = format!(
        "host port {}:{PORT} udp is held by container one (eth0) of network {}: detach that container first, or request another one",
        Outside::NODE_V4,
        story.chain.name()
    );
    assert!(error.text().contains(&text), "{error:?}");
}
