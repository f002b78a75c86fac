//! portmap: ports over time: flows, holders that are gone, guards, other people's rules, a rule set that is flushed.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Chain, Sandbox, Snapshot, kernel, rules};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use crate::story::Story;

type Told = fn(&Sandbox, Backend);

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("portmap::status_says_which_backend", status),
        improved("portmap::nftables_removes_what_go_left", after_go),
    ];
    let stories: [(&str, Told); 12] = [
        ("conditions_are_the_networks_own", conditions),
        ("flows_move_to_the_container_and_back", flows),
        ("flows_leave_a_container_that_is_gone", flow_of_the_dead),
        ("a_port_of_a_dead_container_is_taken_over", evicted),
        ("a_port_on_all_addresses_is_held", taken),
        ("both_networks_of_a_container", two_networks),
        ("a_flushed_rule_set", flushed),
        ("kube_proxy_is_left_alone", kube),
        ("a_range_of_ports", range),
        ("nothing_is_done_without_ports", idle),
        ("host_socket_is_a_warning", listener),
        ("ptp_guards_go", ptp_guards),
    ];
    for backend in Backend::ALL {
        for (what, story) in stories {
            cases.push(improved(format!("portmap::{}_{what}", backend.name()), move |sb| story(sb, backend)));
        }
    }
    for (what, story) in [("flows", flows as Told), ("evicted", evicted), ("taken", taken), ("range", range)] {
        cases.push(common(format!("portmap::legacy_iptables_{what}"), move |sb| {
            sb.node().sh(&["ln", "-s", "/usr/sbin/iptables-legacy", "/run/iptables"]);
            for tool in ["iptables", "ip6tables"] {
                for part in ["", "-save", "-restore"] {
                    let target = format!("/usr/sbin/{tool}-legacy{part}");
                    sb.node().sh(&["mkdir", "-p", "/run/cni-test/legacy"]);
                    sb.node().sh(&["ln", "-s", &target, &format!("/run/cni-test/legacy/{tool}{part}")]);
                }
            }
            LEGACY.set(true);
            story(sb, Backend::Iptables);
        }));
    }
    cases
}

thread_local! {
    /// This case's node has the old iptables.
    static LEGACY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

const PORT: u16 = 8080;

fn start(sb: &Sandbox, backend: Backend) -> Story<'_> {
    let mut story = Story::start(sb, backend);
    if LEGACY.get() {
        let path = format!("/run/cni-test/legacy:{}", std::env::var("PATH").unwrap_or_default());
        story.chain = story.chain.clone().with_path(&path);
    }
    story
}

/// A client outside that keeps its socket, and sends until whoever is `wanted` answers.
struct Client(UdpSocket);

impl Client {
    fn new(story: &Story<'_>) -> Self {
        let socket = story.outside.ns.run(|| UdpSocket::bind((Outside::V4, 5555))).unwrap();
        socket.connect((Outside::NODE_V4, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self(socket)
    }

    #[track_caller]
    fn reaches(&self, wanted: &str) {
        let end = Instant::now() + Duration::from_secs(5);
        let mut last = String::new();
        while Instant::now() < end {
            let mut buffer = [0; 64];
            let _ = self.0.send(b"?");
            if let Ok(size) = self.0.recv(&mut buffer) {
                last = String::from_utf8_lossy(&buffer[..size]).into_owned();
                if last.starts_with(wanted) {
                    return;
                }
            }
        }
        panic!("the client hears {last:?}, not {wanted}");
    }
}

fn flows(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let _host = Server::start(&story.node, "host", PORT);
    let client = Client::new(&story);
    client.reaches("host ");
    let web = story.attach("web", &[(PORT, 80, "udp")]);
    client.reaches("web ");
    story.chain.del(sb, &web.at);
    client.reaches("host ");
    let again = story.attach("again", &[(PORT, 80, "udp")]);
    client.reaches("again ");
    let forgotten = Attachment { result: None, capabilities: serde_json::Map::new(), ..again.at.clone() };
    story.chain.del(sb, &forgotten);
    client.reaches("host ");
}

fn flow_of_the_dead(sb: &Sandbox, backend: Backend) {
    sb.needs("portmap", "1.1.0");
    let story = start(sb, backend);
    let client = Client::new(&story);
    let first = story.attach_bare("first", &[(PORT, 80, "udp")]);
    let server = Server::start(&first.ns, "first", 80);
    client.reaches("first ");
    drop(server);
    std::thread::sleep(Duration::from_millis(50));
    first.ns.delete();
    first.wait_for_its_link_to_go();
    let _second = story.attach("second", &[(PORT, 80, "udp")]);
    client.reaches("second ");
    let _host = Server::start(&story.node, "host", PORT);
    story.chain.gc(sb, &[]).silent();
    client.reaches("host ");
}

/// Its runtime forgot it: no DEL, no namespace, no link.
fn evicted(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let dead = story.attach_bare("dead", &[(PORT, 80, "tcp"), (9000, 80, "tcp")]);
    let ns = sb.container("new");
    let mut new = Attachment::new("new", &ns).publish(&[(PORT, 80, "tcp")]);
    story.chain.try_add(sb, &mut new).expect_err("it still lives").error().names(&["dead"]);
    story.chain.del(sb, &new);
    dead.ns.delete();
    dead.wait_for_its_link_to_go();
    story.chain.add(sb, &mut new);
    let _server = Server::start(&ns, "new", 80);
    for to in [Outside::NODE_V4, Outside::NODE_V6] {
        assert!(ask(&story.outside.ns, Proto::Tcp, at(to, PORT)).unwrap().starts_with("new "));
    }
    // Its masquerading is the bridge's business.
    let left: Vec<_> = rules::naming(&story.node, "dead").into_iter().filter(|rule| rule.contains("9000")).collect();
    assert!(left.is_empty(), "it went with all its ports: {left:?}");
    story.chain.check(sb, &new).silent();
}

fn taken(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let one = story.attach("one", &[(PORT, 80, "tcp")]);
    let ns = sb.container("two");
    let mut two = Attachment::new("two", &ns).publish(&[(7070, 80, "tcp"), (PORT, 80, "tcp")]);
    let error = story.chain.try_add(sb, &mut two).expect_err("the port is taken").error();
    error.names(&["8080", "tcp", "one"]);
    story.chain.del(sb, &two);
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 7070)), "all or nothing");
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("one "));
    story.chain.check(sb, &one.at).silent();
    story.chain.del(sb, &one.at);
    let mut two = Attachment::new("two", &ns).publish(&[(PORT, 80, "tcp")]);
    story.chain.add(sb, &mut two);
    story.chain.del(sb, &two);
}

/// Runtimes pass the ports to every network of a container.
fn two_networks(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let before = Snapshot::of(&[&story.node]);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let bridge = json!({"type": "bridge", "bridge": "br-second", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}]]}});
    let second = Chain::new("second", story.chain.version(), &[bridge, conf::portmap(backend)]);
    let mut also = Attachment::new("web", &web.ns).on("eth1").publish(&[(PORT, 80, "tcp")]);
    second.add(sb, &mut also);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("web "));
    story.chain.check(sb, &web.at).silent();
    second.check(sb, &also).silent();
    second.del(sb, &also);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("web "));
    story.chain.del(sb, &web.at);
    let left = rules::naming(&story.node, "web");
    assert!(left.is_empty(), "{left:?}");
    drop(before);
}

/// A firewall was reloaded: CHECK says so, and whoever comes next works.
fn flushed(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let old = story.attach("old", &[(9000, 80, "tcp")]);
    story.node.sh(&["nft", "flush", "ruleset"]);
    let error = story.chain.check(sb, &old.at).error();
    assert!(error.text().contains("10.77.0.2") || error.text().contains("9000"), "{error:?}");
    let new = story.attach("new", &[(PORT, 80, "tcp")]);
    for to in [Outside::NODE_V4, Outside::NODE_V6, "127.0.0.1"] {
        let from = if to == "127.0.0.1" { &story.node } else { &story.outside.ns };
        assert!(ask(from, Proto::Tcp, at(to, PORT)).unwrap().starts_with("new "), "{to}");
    }
    story.chain.check(sb, &new.at).silent();
    // How the rest is restored: portmap's ADD again, with the same result.
    let mut portmap = conf::portmap(backend);
    portmap["name"] = story.chain.name().into();
    portmap["cniVersion"] = story.chain.version().into();
    let call = story.chain.call(sb, "ADD", &portmap, &old.at, old.at.result.as_ref());
    assert_eq!(call.run().result(), old.at.result.clone().unwrap());
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 9000)).unwrap().starts_with("old "));
    for container in [old, new] {
        story.chain.del(sb, &container.at);
    }
}

fn kube(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let theirs = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
        -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
        -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
        -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
        -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n-A KUBE-POSTROUTING -j MASQUERADE\nCOMMIT\n";
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/kube", theirs).unwrap();
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

/// Every container of ptp has a link of its own, which takes its guard along.
fn ptp_guards(sb: &Sandbox, backend: Backend) {
    sb.needs("ptp", "1.1.0");
    let story = start(sb, backend);
    let ipam =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.80.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let ptp = json!({"type": "ptp", "ipam": ipam});
    let chain = Chain::new("ptp", "1.1.0", &[ptp, conf::portmap(backend)]);
    let guards = || {
        let lines = rules::all(&story.node);
        lines.iter().filter(|l| l.contains("guard of veth") || l.contains("guarded element")).count()
    };
    let mut ends = Vec::new();
    for (n, id) in (0..).zip(["c1", "c2", "c3"]) {
        let ns = sb.container(id);
        let mut to = Attachment::new(id, &ns).publish(&[(PORT + n, 80, "tcp")]);
        chain.add(sb, &mut to);
        ends.push((ns, to));
    }
    assert_eq!(guards(), 3, "{:?}", rules::all(&story.node));
    chain.del(sb, &ends[0].1);
    assert_eq!(guards(), 2);
    chain.del(sb, &Attachment { result: None, capabilities: serde_json::Map::new(), ..ends[1].1.clone() });
    assert_eq!(guards(), 1);
    ends[2].0.delete();
    for _ in 0..100 {
        if !kernel::link_names(&story.node).iter().any(|name| name.starts_with("veth")) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    chain.gc(sb, &[]).silent();
    assert_eq!(guards(), 0);
}

fn status(sb: &Sandbox) {
    sb.needs("portmap", "1.1.0");
    let status = |keys: Value, path: Option<&str>| {
        let mut conf = conf::named("1.1.0", keys);
        conf["type"] = "portmap".into();
        let call = sb.plugin("portmap", "STATUS").conf(&conf);
        path.iter().fold(call, |call, path| call.env("PATH", path)).run()
    };
    for (keys, path, backend) in [
        (json!({}), None, "iptables"),
        (json!({}), Some("/nowhere"), "nftables"),
        (json!({"backend": "nftables"}), None, "nftables"),
    ] {
        let said = status(keys.clone(), path);
        said.silent();
        assert!(said.stderr.contains(backend), "{keys}: {said}");
    }
    let error = status(json!({"backend": "iptables"}), Some("/nowhere")).error();
    assert_eq!(error.code, 50);
    error.names(&["iptables", "PATH"]);
}

/// As the Go plugin 1.6 and later leaves them.
fn after_go(sb: &Sandbox) {
    let story = start(sb, Backend::Nftables);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    for ip in ["ip", "ip6"] {
        let script = format!(
            "nft 'table {ip} cni_hostport {{ chain hostports {{ tcp dport 9000 counter comment \"web\"; tcp dport 9001 counter \
             comment \"other\"; }}; chain masquerading {{ counter comment \"web\"; }}; }}'"
        );
        story.node.sh(&["sh", "-c", &script]);
    }
    let go =
        || rules::naming(&story.node, "cni_hostport").iter().filter(|line| line.contains("comment\":\"web")).count();
    assert_eq!(go(), 4);
    story.chain.del(sb, &web.at);
    assert_eq!(go(), 0);
    let others = rules::naming(&story.node, "cni_hostport").into_iter().filter(|line| line.contains("other")).count();
    assert_eq!(others, 2, "another container's stay");
}

/// One network serves only whom its conditions name; the other network of the node serves everybody.
fn conditions(sb: &Sandbox, backend: Backend) {
    let iptables = backend == Backend::Iptables;
    let (v4, v6) = if iptables {
        (json!(["-s", "192.0.2.0/24"]), json!(["!", "-s", Outside::V6]))
    } else {
        (json!(["ip saddr 192.0.2.0/24", "tcp sport 1024-65535"]), json!([format!("ip6 saddr != {}", Outside::V6)]))
    };
    let mut story = start(sb, backend);
    let open = story.chain.clone();
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
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V6, PORT)), "that source is excluded");
    assert!(ask(&story.node, Proto::Tcp, at(Outside::NODE_V6, PORT)).unwrap().starts_with("some "));
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V6, 9000)).unwrap().starts_with("all "));
    closed.check(sb, &some.at).silent();
    story.chain.check(sb, &all.at).silent();
    closed.del(sb, &some.at);
    let left: Vec<_> =
        rules::naming(&story.node, "198.51.100").into_iter().chain(rules::naming(&story.node, "when-")).collect();
    assert!(left.is_empty() && rules::naming(&story.node, "some").is_empty(), "{left:?}");
    story.chain.del(sb, &all.at);
}
