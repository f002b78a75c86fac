//! portmap: from where a published port answers, and who the container sees.

use std::path::Path;

use cni_tests::conf::{self, Backend, V4_GATEWAY, V6_GATEWAY};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::sandbox::FAKES;
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel};
use serde_json::json;

use super::{PORT, route_loopback};
use crate::case::{Basis, Case, common, improved};
use cni_tests::story::{Container, Story};

type Scenario = fn(&Sandbox, Backend);

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("hairpin_without_br_netfilter_needs_no_hairpin_mode", without_br_netfilter),
        improved("a_port_taken_twice_names_the_owner", taken),
    ];
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let stories: [(&str, Basis, Scenario); 10] = [
            ("host_ip", basis, host_ip),
            ("host_ip_unspecified_is_any", basis, any_host_ip),
            ("transit_traffic_is_left_alone", basis, transit),
            ("seventeen_ports", basis, many),
            ("del_closes_the_port", basis, closed),
            ("loopback_services_stay_private", Basis::Improved, guard),
            ("check_names_what_127_0_0_1_needs", Basis::Improved, check_guard),
            ("a_flush_opens_127_0_0_1_until_the_next_call_only", Basis::Improved, flushed),
            ("what_others_opened_is_guarded", Basis::Improved, upgraded),
            ("a_starved_call_leaves_others_alone", Basis::Improved, starved),
        ];
        for (what, basis, story) in stories {
            let name = format!("{}::{what}", backend.name());
            cases.push(common(name, move |sb| story(sb, backend)).based_on(basis));
        }
    }
    cases
}

fn node(v6: bool) -> &'static str {
    if v6 { Outside::NODE_V6 } else { Outside::NODE_V4 }
}

#[track_caller]
fn answers(from: &Netns, proto: Proto, ip: &str, expected: &str) {
    let answer = ask(from, proto, at(ip, PORT));
    let answer = answer.unwrap_or_else(|e| panic!("{proto:?} {ip}:{PORT} from {}: {e}", from.name));
    assert!(answer.starts_with(expected), "{proto:?} {ip}:{PORT} from {}: {answer:?}, not {expected:?}", from.name);
}

fn mapped(story: &Story, id: &str, host_ip: &str) -> Container {
    let mapping = json!([{"hostPort": PORT, "containerPort": 80, "protocol": "tcp", "hostIP": host_ip}]);
    story.attach_with(id, |at| at.with("portMappings", mapping.clone()))
}

fn host_ip(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let web = mapped(&story, "web", Outside::NODE_V4);
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, "web ");
    answers(&story.node, Proto::Tcp, Outside::NODE_V4, "web ");
    assert!(silent(&story.node, Proto::Tcp, at("127.0.0.1", PORT)), "only on one address");
    assert!(silent(&story.node, Proto::Tcp, at(V4_GATEWAY, PORT)), "only on one address");
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V6, PORT)), "not in the other family");
    // Another container may have the same port on another address.
    let other = mapped(&story, "other", Outside::NODE_V6);
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V6, "other ");
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, "web ");
    story.chain.del(sb, &web.at);
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V6, "other ");
    story.chain.del(sb, &other.at);
}

fn any_host_ip(sb: &Sandbox, backend: Backend) {
    for (text, v6) in [("0.0.0.0", false), ("::", true), ("", false)] {
        let story = Sandbox::run(sb.dir(), |sb| {
            let story = Story::start(sb, backend);
            let _web = mapped(&story, "web", text);
            answers(&story.outside.ns, Proto::Tcp, node(v6), "web ");
            answers(&story.node, Proto::Tcp, node(v6), "web ");
        });
        story.unwrap_or_else(|stop| cni_tests::verdict::resume(stop));
    }
}

/// CVE-2025-67499: a connection through the node to another host's port isn't the node's business.
fn transit(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let neighbour = story.attach("neighbour", &[]);
    let _server = Server::start(&story.outside.ns, "outside", PORT);
    for from in [&neighbour.ns, &web.ns, &story.node] {
        answers(from, Proto::Tcp, Outside::V4, "outside ");
        answers(from, Proto::Tcp, Outside::V6, "outside ");
    }
}

/// One more than a multiport match holds.
fn many(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let ports: Vec<_> = (0..17).map(|n| (9000 + n, 80, "tcp")).collect();
    let web = story.attach("web", &ports);
    for (port, ..) in &ports {
        let answer = ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, *port));
        assert!(answer.is_ok_and(|a| a.starts_with("web ")), "port {port}");
    }
    story.chain.del(sb, &web.at);
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 9016)));
}

fn closed(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let (one, two) = (story.attach("one", &[(PORT, 80, "tcp")]), story.attach("two", &[(9000, 80, "tcp")]));
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, "one ");
    story.chain.del(sb, &one.at);
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)), "closed");
    let answer = ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 9000)).unwrap();
    assert!(answer.starts_with("two "), "the other's port stays open: {answer}");
    story.chain.del(sb, &two.at);
    let three = story.attach("three", &[(PORT, 80, "tcp")]);
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, "three ");
    story.chain.del(sb, &three.at);
}

/// CVE-2020-8558: 127.0.0.1:8080 needs `route_localnet`, which must not open the node's own 127.0.0.1 to containers.
fn guard(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let _web = story.attach("web", &[(PORT, 80, "tcp")]);
    let attacker = story.attach("attacker", &[]);
    let _secret = Server::start(&story.node, "secret", 9999);
    assert!(ask(&story.node, Proto::Tcp, at("127.0.0.1", 9999)).is_ok(), "the node itself reaches it");
    route_loopback(&attacker.ns, "eth0", V4_GATEWAY);
    assert!(silent(&attacker.ns, Proto::Tcp, at("127.0.0.1", 9999)), "a container reaches the node's 127.0.0.1");
}

fn check_guard(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let setting = "ipv4/conf/br-test/route_localnet";
    assert_eq!(kernel::sysctl(&story.node, setting).as_deref(), Some("1"));
    kernel::set_sysctl(&story.node, setting, "0");
    story.chain.check(sb, &web.at).error().names(&["route_localnet", "br-test"]);
    kernel::set_sysctl(&story.node, setting, "1");
    story.chain.check(sb, &web.at).silent();
    let damages =
        ["flush table ip cni_localnet", "delete table ip cni_localnet", "add table ip cni_localnet { flags dormant; }"];
    for (id, damage) in ["c1", "c2", "c3"].into_iter().zip(damages) {
        story.node.sh(&["nft", damage]);
        let error = story.chain.check(sb, &web.at).error();
        error.names(&["cni_localnet"]);
        let next = story.attach(id, &[(9000, 80, "tcp")]);
        story.chain.check(sb, &web.at).silent();
        story.chain.del(sb, &next.at);
    }
}

/// A container that sends what is for 127.0.0.0/8 to its gateway, and a service of the node that it must not reach.
struct Attacker {
    container: Container,
    _secret: Server,
}

impl Attacker {
    const SECRET: u16 = 9999;

    fn start(story: &Story<'_>) -> Self {
        let container = story.attach("attacker", &[]);
        route_loopback(&container.ns, "eth0", V4_GATEWAY);
        Self { container, _secret: Server::start(&story.node, "secret", Self::SECRET) }
    }

    fn gets_in(&self) -> bool {
        !silent(&self.container.ns, Proto::Tcp, at("127.0.0.1", Self::SECRET))
    }
}

/// What restarting nftables.service does; the sysctl stays. Whichever plugin is called next for whichever network closes the
/// node again, and DEL and GC too.
fn flushed(sb: &Sandbox, backend: Backend) {
    sb.needs("bridge", "1.1.0");
    sb.needs("portmap", "1.1.0");
    let story = Story::start(sb, backend);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let attacker = Attacker::start(&story);
    let other =
        json!({"type": "bridge", "bridge": "br-other", "ipam": {"type": "host-local", "subnet": "10.78.0.0/24"}});
    let plugins = [other, conf::portmap(backend)];
    let other = Chain::new("other", "1.1.0", &plugins);
    let ns = sb.container("other");
    let mut at_other = Attachment::new("other", &ns);
    let call = |verb: &str, plugin: usize, at: &Attachment| {
        other.call(sb, verb, &plugins[plugin], at, at.result.as_ref()).run()
    };
    let gc = |plugin: usize| {
        let mut conf = conf::named("1.1.0", plugins[plugin].clone());
        conf["name"] = "other".into();
        conf["cni.dev/valid-attachments"] = json!([{"containerID": "other", "ifname": "eth0"}]);
        sb.plugin(plugins[plugin]["type"].as_str().unwrap(), "GC").conf(&conf).run()
    };
    assert!(!attacker.gets_in());
    for step in ["bridge ADD", "portmap ADD", "portmap GC", "bridge GC", "portmap DEL", "bridge DEL"] {
        story.node.sh(&["nft", "flush", "ruleset"]);
        assert!(attacker.gets_in(), "before {step}: nothing to close");
        let warned = story.chain.status(sb);
        warned.silent();
        assert!(warned.stderr.contains("127.0.0.1") && warned.stderr.contains("cni_localnet"), "{warned}");
        story.chain.check(sb, &web.at).error().names(&["cni_localnet"]);
        match step {
            "bridge ADD" => at_other.result = Some(call("ADD", 0, &at_other).result()),
            "portmap ADD" => drop(call("ADD", 1, &at_other).result()),
            "portmap GC" => gc(1).silent(),
            "bridge GC" => gc(0).silent(),
            "portmap DEL" => call("DEL", 1, &at_other).silent(),
            _ => call("DEL", 0, &at_other).silent(),
        }
        assert!(!attacker.gets_in(), "after {step}");
        assert_eq!(story.chain.status(sb).stderr, "");
    }
}

/// A call that can't see whether the guard is there must not switch `route_localnet` off under other containers.
fn starved(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let other = story.attach("other", &[]);
    let ports = other.at.clone().publish(&[(9000, 80, "tcp")]);
    let plugin = conf::portmap(backend);
    for what in ["socket:error=EMFILE", "socket:error=ENOBUFS", "sendto:error=ENOBUFS", "recvfrom:error=ENOMEM"] {
        let starved = sb.dir().join("portmap").display().to_string();
        sb.fake("starved", &format!("exec strace -qq -o /run/trace -e inject={what} {starved}"));
        for (verb, at) in [("ADD", &other.at), ("ADD", &ports), ("DEL", &ports), ("DEL", &other.at)] {
            let call = story.chain.call(sb, verb, &plugin, at, at.result.as_ref());
            call.by(Path::new(FAKES).join("starved")).run();
            let setting = kernel::sysctl(&story.node, "ipv4/conf/br-test/route_localnet");
            assert_eq!(setting.as_deref(), Some("1"), "{verb}, {what}");
        }
        story.chain.call(sb, "DEL", &plugin, &ports, ports.result.as_ref()).run().silent();
    }
    answers(&story.node, Proto::Tcp, "127.0.0.1", "web ");
    story.chain.check(sb, &web.at).silent();
}

/// The setting was switched on by an earlier version, or by the Go plugin: only the setting itself shows it.
fn upgraded(sb: &Sandbox, backend: Backend) {
    sb.needs("bridge", "1.1.0");
    sb.needs("portmap", "1.1.0");
    let story = Story::start(sb, backend);
    let attacker = Attacker::start(&story);
    kernel::set_sysctl(&story.node, "ipv4/conf/br-test/route_localnet", "1");
    for step in ["GC", "ADD", "DEL"] {
        story.node.sh(&["nft", "flush", "ruleset"]);
        assert!(attacker.gets_in(), "before {step}: nothing to close");
        let at = &attacker.container.at;
        match step {
            "GC" => story.chain.gc(sb, &[("attacker", "eth0")]).silent(),
            "ADD" => drop(story.attach("other", &[])),
            _ => story.chain.call(sb, "DEL", &conf::portmap(backend), at, at.result.as_ref()).run().silent(),
        }
        assert!(!attacker.gets_in(), "after {step}");
    }
}

/// `br_netfilter` off: then a packet to oneself is routed, and comes back to the port that it came from as a new one.
fn without_br_netfilter(sb: &Sandbox) {
    let story = Story::with(sb, Backend::Iptables, |bridge, _| bridge["hairpinMode"] = false.into());
    for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        if kernel::sysctl(&story.node, &format!("bridge/{key}")).is_some() {
            kernel::set_sysctl(&story.node, &format!("bridge/{key}"), "0");
        }
    }
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    answers(&web.ns, Proto::Tcp, Outside::NODE_V4, &format!("web {V4_GATEWAY}"));
    answers(&web.ns, Proto::Tcp, Outside::NODE_V6, &format!("web {V6_GATEWAY}"));
}

fn taken(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Nftables);
    let _one = story.attach("one", &[(PORT, 80, "tcp")]);
    let ns = sb.container("two");
    let mut two = Attachment::new("two", &ns).publish(&[(PORT, 80, "tcp")]);
    let error = story.chain.try_add(sb, &mut two).expect_err("the port is taken").error();
    error.names(&["8080", "one"]);
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, "one ");
}
