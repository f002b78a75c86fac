//! firewall's `publishedOnly`: how the door stays closed, who opens it and what says so. Who gets through is in the matrix.

use cni_tests::conf::{self, Backend};
use cni_tests::faults::{Fault, SHARED, at_every_call, wait_for_the_rest};
use cni_tests::packets::{Outside, Proto, Server, ask, at};
use cni_tests::parallel::at_once;
use cni_tests::{Sandbox, Snapshot, netns, rules};
use serde_json::{Value, json};

use super::{Node, PORT, PUBLISHED, call, is_cut_off, reaches};
use crate::case::{Case, improved};

const CLOSED: &str = "publishedOnly";

type Scenario = fn(&Sandbox, Backend);

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let rows: [(&str, Scenario); 12] = [
        ("killed_at_any_instant::add", |sb, backend| killed(sb, backend, "ADD")),
        ("killed_at_any_instant::del", |sb, backend| killed(sb, backend, "DEL")),
        ("adds_and_dels_at_once", at_the_same_time),
        ("accepts_of_others_do_not_open_it", others_accept),
        ("what_was_flushed_is_said_and_mended", flushed),
        ("check_names_what_is_gone", noticed),
        ("del_without_result_leaves_nothing", del),
        ("gc_keeps_the_valid", gc),
        ("address_that_changed_hands", changed_hands),
        ("add_behind_another_bridge", rewired),
        ("add_without_the_key_opens", opened),
        ("container_that_is_asked_first_may_ask_itself", replies),
    ];
    let mut cases = vec![improved("needs_a_link_of_the_node", no_link)];
    for backend in Backend::ALL {
        cases.extend(
            rows.map(|(what, story)| improved(format!("{}::{what}", backend.name()), move |sb| story(sb, backend))),
        );
    }
    cases
}

/// The configuration for an attachment that got addresses `.n` on bridge `br0`.
fn conf(sb: &Sandbox, backend: Backend, n: u8) -> Value {
    conf::firewall_alone(sb, backend, CLOSED, n)
}

fn add(sb: &Sandbox, id: &str, conf: &Value) {
    call(sb, "ADD", id, conf).result();
}

/// The lines about closed doors that name something.
fn doors(sb: &Sandbox, naming: &str) -> Vec<String> {
    rules::all(&sb.node()).into_iter().filter(|l| l.contains("cni_published_only") && l.contains(naming)).collect()
}

/// A host on the wire knows the way to the containers; other programs accept everything, first and last.
fn others_accept(sb: &Sandbox, backend: Backend) {
    let node = Node::accepting(sb, backend);
    node.outside.ns.sh(&["ip", "route", "add", "10.88.0.0/16", "via", Outside::NODE_V4]);
    node.outside.ns.sh(&["ip", "-6", "route", "add", "fd00:88::/32", "via", Outside::NODE_V6]);
    netns::sh(&["sh", "-c", "for t in iptables ip6tables; do $t -P FORWARD ACCEPT; done"]);
    let net = node.guarded(1, CLOSED);
    let web = net.attach("web", &PUBLISHED);
    let accept = "table inet mine {
        chain first { type filter hook prerouting priority -400; policy accept; accept
        }
        chain second { type filter hook prerouting priority -140; policy accept; accept
        }
        chain forward { type filter hook forward priority -400; policy accept; accept
        }
    }";
    netns::sh(&["nft", accept]);
    netns::sh(&["sh", "-c", "for t in iptables ip6tables; do $t -I FORWARD -j ACCEPT; done"]);
    for v6 in [false, true] {
        assert!(is_cut_off(&node.outside.ns, &web.at.ip(v6), 80));
        assert!(reaches(&node.outside.ns, [Outside::NODE_V4, Outside::NODE_V6][usize::from(v6)], PORT, "web "));
    }
    net.chain.check(sb, &web.at).silent();
    net.chain.status(sb).silent();
    net.chain.del(sb, &web.at);
}

fn flushed(sb: &Sandbox, backend: Backend) {
    let node = Node::accepting(sb, backend);
    let net = node.guarded(1, CLOSED);
    let mut web = net.attach("web", &PUBLISHED);
    let firewall = |verb: &str| {
        let call = sb.plugin("firewall", verb).names("web", "eth0").env("CNI_NETNS", &web.at.netns);
        let mut conf = net.chain.plugins()[2].clone();
        (conf["name"], conf["cniVersion"]) = (net.chain.name().into(), sb.newest(&["firewall"]).into());
        conf["prevResult"] = web.at.result.clone().unwrap_or_default();
        call.conf(&conf).run()
    };
    firewall("STATUS").silent();
    netns::sh(&["nft", "delete", "table", "inet", "cni_published_only"]);
    firewall("CHECK").error().names(&["cni_published_only"]);
    let said = firewall("STATUS");
    assert!(said.ok() && said.stderr.contains("reachable directly"), "{said}");
    // Another container brings back what all share, and not this one's door.
    let other = net.attach("other", &[]);
    let said = firewall("STATUS");
    assert!(said.ok() && said.stderr.contains("closed door of the link"), "{said}");
    firewall("CHECK").error().names(&[&web.at.ip(false)]);
    firewall("ADD").result();
    firewall("CHECK").silent();
    firewall("STATUS").silent();
    net.chain.del(sb, &web.at);
    net.chain.del(sb, &other.at);
    web.at.result = None;
}

fn noticed(sb: &Sandbox, backend: Backend) {
    let conf = conf(sb, backend, 2);
    add(sb, "c1", &conf);
    for (deed, named) in [
        ("nft delete element inet cni_published_only closed4 { 10.9.0.2 }", "10.9.0.2"),
        ("nft delete element inet cni_published_only containers6 { fd00:9::2 }", "fd00:9::2"),
        ("nft flush chain inet cni_published_only behind-br0", "behind-br0"),
        ("nft flush chain inet cni_published_only close", "vmap @closed4"),
        ("nft insert rule inet cni_published_only close accept", "1 more"),
        ("nft flush chain inet cni_published_only marking", "marking"),
        ("nft add table inet cni_published_only '{ flags dormant; }'", "dormant"),
        ("nft delete table inet cni_published_only", "cni_published_only"),
    ] {
        call(sb, "CHECK", "c1", &conf).silent();
        netns::sh(&["sh", "-c", deed]);
        call(sb, "CHECK", "c1", &conf).error().names(&[named]);
        add(sb, "c1", &conf);
    }
    if backend == Backend::Iptables {
        netns::sh(&["sh", "-c", "iptables -D FORWARD 1"]);
        call(sb, "CHECK", "c1", &conf).error().names(&["0x800"]);
        add(sb, "c1", &conf);
    }
    call(sb, "CHECK", "c1", &conf).silent();
}

fn del(sb: &Sandbox, backend: Backend) {
    add(sb, "stays", &conf(sb, backend, 3));
    let before = Snapshot::of(&[&sb.node()]);
    let conf = conf(sb, backend, 2);
    add(sb, "goes", &conf);
    let once = Snapshot::of(&[&sb.node()]);
    add(sb, "goes", &conf);
    Snapshot::of(&[&sb.node()]).same_as(&once);
    let mut bare = conf.clone();
    bare.as_object_mut().map(|keys| keys.remove("prevResult"));
    bare["publishedOnly"] = "nonsense".into();
    for conf in [&bare, &conf] {
        call(sb, "DEL", "goes", conf).silent();
        Snapshot::of(&[&sb.node()]).same_as(&before);
    }
}

fn gc(sb: &Sandbox, backend: Backend) {
    sb.needs("firewall", "1.1.0");
    let (valid, stale) = (conf(sb, backend, 2), conf(sb, backend, 3));
    add(sb, "valid", &valid);
    let before = Snapshot::of(&[&sb.node()]);
    add(sb, "stale", &stale);
    let mut conf = valid.clone();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "valid", "ifname": "eth0"}]);
    call(sb, "GC", "", &conf).silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
    call(sb, "CHECK", "valid", &valid).silent();
}

fn changed_hands(sb: &Sandbox, backend: Backend) {
    let conf = conf(sb, backend, 2);
    add(sb, "former", &conf);
    add(sb, "present", &conf);
    call(sb, "DEL", "former", &conf).silent();
    call(sb, "CHECK", "present", &conf).silent();
}

fn rewired(sb: &Sandbox, backend: Backend) {
    let mut conf = conf(sb, backend, 2);
    add(sb, "c1", &conf);
    conf["prevResult"]["interfaces"][0]["name"] = "br1".into();
    call(sb, "CHECK", "c1", &conf).error().names(&["behind-br1"]);
    add(sb, "c1", &conf);
    call(sb, "CHECK", "c1", &conf).silent();
    assert!(doors(sb, "br0").is_empty(), "{:?}", doors(sb, "br0"));
}

fn opened(sb: &Sandbox, backend: Backend) {
    let closed = conf(sb, backend, 2);
    add(sb, "c1", &closed);
    let mut open = closed.clone();
    open["publishedOnly"] = false.into();
    add(sb, "c1", &open);
    assert!(doors(sb, "10.9.0.2").is_empty(), "{:?}", doors(sb, "10.9.0.2"));
    call(sb, "CHECK", "c1", &open).silent();
    call(sb, "CHECK", "c1", &closed).error().names(&["10.9.0.2"]);
}

/// A killed call leaves nothing that the next one doesn't mend, and the doors of others stay closed.
fn killed(sb: &Sandbox, backend: Backend, verb: &'static str) {
    let (stays, conf) = (conf(sb, backend, 3), conf(sb, backend, 2));
    add(sb, "stays", &stays);
    add(sb, "goes", &conf);
    if verb == "ADD" {
        call(sb, "DEL", "goes", &conf).silent();
    }
    let ns = sb.container("goes");
    let fault = Fault { call: "sendto", what: "signal=KILL" };
    let faulty = sb.plugin("firewall", verb).names("goes", "eth0").env("CNI_NETNS", &ns.path()).conf(&conf);
    let places = at_every_call(sb, &ns, ("firewall", &faulty), fault, |_, before| {
        wait_for_the_rest();
        call(sb, "CHECK", "stays", &stays).silent();
        if verb == "ADD" {
            call(sb, "DEL", "goes", &conf).silent();
        } else {
            add(sb, "goes", &conf);
            call(sb, "CHECK", "goes", &conf).silent();
        }
        Snapshot::of(&[&sb.node(), &ns]).same_but(before, &SHARED);
    });
    assert!(places > 1, "{places}");
}

fn at_the_same_time(sb: &Sandbox, backend: Backend) {
    let all: Vec<(String, Value)> = (2..10).map(|n| (format!("c{n}"), conf(sb, backend, n))).collect();
    for _ in 0..2 {
        at_once(all.len(), |n| add(sb, &all[n].0, &all[n].1));
        all.iter().for_each(|(id, conf)| call(sb, "CHECK", id, conf).silent());
        at_once(all.len(), |n| {
            let (id, conf) = &all[n];
            if n % 2 == 0 { call(sb, "DEL", id, conf).silent() } else { add(sb, id, conf) }
        });
        for (n, (id, conf)) in all.iter().enumerate() {
            assert_eq!(doors(sb, &format!("id: {id},")).is_empty(), n % 2 == 0, "{id}");
            if n % 2 != 0 {
                call(sb, "CHECK", id, conf).silent();
            }
        }
        at_once(all.len(), |n| call(sb, "DEL", &all[n].0, &all[n].1).silent());
        assert!(doors(sb, "id: ").is_empty(), "{:?}", doors(sb, "id: "));
    }
}

/// Without masquerade a reply is for the container's own address.
fn replies(sb: &Sandbox, backend: Backend) {
    let node = Node::accepting(sb, backend);
    node.outside.ns.sh(&["ip", "route", "add", "10.88.0.0/16", "via", Outside::NODE_V4]);
    let mut net = node.guarded(1, CLOSED);
    let mut plugins = net.chain.plugins().to_vec();
    plugins[0]["ipMasq"] = false.into();
    net.chain = cni_tests::Chain::new("net1", sb.newest(&["bridge", "portmap", "host-local", "firewall"]), &plugins);
    let client = net.attach("client", &[]);
    let _server = Server::start(&node.outside.ns, "there", 7005);
    for proto in [Proto::Tcp, Proto::Udp] {
        let answer = ask(&client.ns, proto, at(Outside::V4, 7005)).expect("an answer");
        assert_eq!(answer, format!("there {}", client.at.ip(false)));
    }
    assert!(is_cut_off(&node.outside.ns, &client.at.ip(false), 80));
}

fn no_link(sb: &Sandbox) {
    let mut conf = conf(sb, Backend::Nftables, 2);
    conf["prevResult"]["interfaces"] = json!([{"name": "eth0", "sandbox": "/run/netns/c"}]);
    conf["prevResult"]["ips"] = json!([{"address": "10.9.0.2/24", "interface": 0}]);
    let before = Snapshot::of(&[&sb.node()]);
    call(sb, "ADD", "c1", &conf).error().names(&["publishedOnly", "prevResult"]);
    Snapshot::of(&[&sb.node()]).same_as(&before);
}
