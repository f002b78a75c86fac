//! portmap: from where a published port answers, and who the container sees.

use cni_tests::conf::{Backend, V4_GATEWAY, V6_GATEWAY};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Netns, Sandbox, kernel};
use serde_json::json;

use crate::case::{Basis, Case, common, improved};
use crate::story::{Container, Story};

type Told = fn(&Sandbox, Backend);

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("portmap::hairpin_without_br_netfilter_needs_no_hairpin_mode", without_br_netfilter),
        improved("portmap::a_port_taken_twice_names_the_owner", taken),
    ];
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let stories: [(&str, Basis, Told); 7] = [
            ("host_ip", basis, host_ip),
            ("host_ip_unspecified_is_any", basis, any_host_ip),
            ("transit_traffic_is_left_alone", basis, transit),
            ("seventeen_ports", basis, many),
            ("del_closes_the_port", basis, closed),
            ("loopback_services_stay_private", Basis::Improved, guard),
            ("check_names_what_127_0_0_1_needs", Basis::Improved, check_guard),
        ];
        for (what, basis, story) in stories {
            let name = format!("portmap::{}_{what}", backend.name());
            cases.push(common(name, move |sb| story(sb, backend)).based_on(basis));
        }
    }
    cases
}

const PORT: u16 = 8080;

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
    attacker.ns.sh(&["ip", "addr", "flush", "dev", "lo"]);
    attacker.ns.sh(&["ip", "route", "add", "127.0.0.1/32", "via", V4_GATEWAY]);
    kernel::set_sysctl(&attacker.ns, "ipv4/conf/eth0/route_localnet", "1");
    kernel::set_sysctl(&attacker.ns, "ipv4/conf/all/route_localnet", "1");
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
    let damages = if backend == Backend::Nftables {
        ["nft flush set ip cni_localnet guarded", "nft flush table ip cni_localnet"]
    } else {
        ["iptables -t raw -F CNI-HOSTPORT-GUARD", "iptables -t raw -F PREROUTING"]
    };
    for (id, damage) in ["c1", "c2"].into_iter().zip(damages) {
        story.node.sh(&["sh", "-c", damage]);
        let error = story.chain.check(sb, &web.at).error();
        assert!(error.text().contains("127.0.0.0/8") || error.text().contains("guard"), "{damage}: {error:?}");
        let next = story.attach(id, &[(9000, 80, "tcp")]);
        story.chain.check(sb, &web.at).silent();
        story.chain.del(sb, &next.at);
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
    let mut two = cni_tests::Attachment::new("two", &ns).publish(&[(PORT, 80, "tcp")]);
    let error = story.chain.try_add(sb, &mut two).expect_err("the port is taken").error();
    error.names(&["8080", "one"]);
    answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, "one ");
}
